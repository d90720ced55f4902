"""The doctor's verdicts: named facts in, a level and an advice out."""

from __future__ import annotations

from pathlib import Path

import pytest

from terpd.daemon import doctor
from terpd.daemon.doctor import GIB, Check, Level
from terpd.node.vmm.accel import Acceleration

_ALL = frozenset({"cpu", "memory", "pids"})
_SYSCALLS = "kill_process kill_thread trap errno user_notif trace log allow"


@pytest.mark.parametrize(
    ("check", "level"),
    [
        (doctor.check_host_kernel("6.1.0-18-amd64"), Level.OK),
        (doctor.check_host_kernel("5.13.1"), Level.WARN),
        (doctor.check_host_kernel("5.10.0"), Level.FAIL),
        (doctor.check_host_kernel("unheard-of"), Level.FAIL),
        (doctor.check_qemu("10.0.2"), Level.OK),
        (doctor.check_qemu("9.2.0"), Level.WARN),
        (doctor.check_qemu("7.2.11"), Level.FAIL),
        (doctor.check_acceleration(Acceleration("kvm", "a guest booted with it")), Level.OK),
        (doctor.check_acceleration(Acceleration("tcg", "/dev/kvm: No such file or directory")), Level.WARN),
        (doctor.check_cgroups("v2", _ALL | {"kill"}), Level.OK),
        (doctor.check_cgroups("v1", _ALL - {"memory"}), Level.WARN),
        (doctor.check_cgroups("none", frozenset()), Level.WARN),
        (doctor.check_programs({"terp-jail": True, "terp-agent": True}), Level.OK),
        (doctor.check_programs({"terp-jail": True, "terp-agent": False}), Level.FAIL),
        (doctor.check_user_namespaces("15000", None, None, root=True), Level.OK),
        (doctor.check_user_namespaces("15000", "0", "1", root=True), Level.OK),
        (doctor.check_user_namespaces("0", None, None, root=True), Level.FAIL),
        (doctor.check_user_namespaces(None, None, None, root=True), Level.FAIL),
        (doctor.check_user_namespaces("15000", "0", None, root=False), Level.FAIL),
        (doctor.check_user_namespaces("15000", "1", "1", root=False), Level.FAIL),
        (doctor.check_seccomp(_SYSCALLS), Level.OK),
        (doctor.check_seccomp(None), Level.FAIL),
        (doctor.check_uids(800_000, 10, [("/etc/subuid: ann", 799_000, 1000)], root=True), Level.OK),
        (doctor.check_uids(800_000, 10, [("/etc/subuid: ann", 799_000, 1001)], root=True), Level.WARN),
        (doctor.check_uids(800_000, 10, [("/etc/passwd: bob", 800_009, 1)], root=True), Level.WARN),
        (doctor.check_uids(800_000, 10, [], root=False), Level.WARN),
        (doctor.check_open_files(20_000, 256), Level.OK),
        (doctor.check_open_files(-1, 256), Level.OK),
        (doctor.check_open_files(1024, 256), Level.WARN),
        (doctor.check_memory(8 * GIB), Level.OK),
        (doctor.check_memory(GIB), Level.WARN),
        (doctor.check_disk(Path("/h"), 50 * GIB), Level.OK),
        (doctor.check_disk(Path("/h"), 5 * GIB), Level.WARN),
        (doctor.check_disk(Path("/h"), GIB // 2), Level.FAIL),
        (doctor.check_home(Path("/h"), "6.12", ["debian-12"]), Level.OK),
        (doctor.check_home(Path("/h"), None, []), Level.FAIL),
        (doctor.check_network(tun=False, nft=False), Level.OK),
    ],
    ids=lambda value: f"{value.name}: {value.found}" if isinstance(value, Check) else "",
)
def test_verdict(check: Check, level: Level) -> None:
    """Each fact has the level it deserves, and whatever is not well comes with what to do."""
    assert check.level is level
    assert bool(check.advice) == (level is not Level.OK)


def test_clash_is_named() -> None:
    """Who else has the ids is said, so that the operator can find it."""
    check = doctor.check_uids(800_000, 10, [("/etc/subuid: ann", 700_000, 200_000)], root=True)

    assert "/etc/subuid: ann" in check.advice
