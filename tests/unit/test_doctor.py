"""The doctor's verdicts: named facts in, a level and an advice out."""

from __future__ import annotations

from pathlib import Path

import pytest

from terpd.daemon import doctor, doctor_network, doctor_states
from terpd.daemon.check import GIB, Check, Level
from terpd.daemon.config import Config
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
        (doctor_network.check_network(took_s=0.003), Level.OK),
        (doctor_network.check_network(refused="Networks need /dev/net/tun: load the module tun"), Level.WARN),
        (doctor_states.check_vault(None), Level.OK),
        (doctor_states.check_vault("No such file"), Level.FAIL),
        (doctor_states.check_tmpfs("tmpfs"), Level.OK),
        (doctor_states.check_tmpfs("ext4"), Level.WARN),
        (doctor_states.check_tmpfs(None), Level.FAIL),
        (doctor_states.check_capture(scans=True, traces=True), Level.OK),
        (doctor_states.check_capture(scans=False, traces=True), Level.WARN),
        (doctor_states.check_capture(scans=True, traces=False), Level.WARN),
        (doctor_states.check_key("/k", 0o600, None), Level.OK),
        (doctor_states.check_key("/k", 0o640, None), Level.WARN),
        (doctor_states.check_key("TERP_KEY", None, None), Level.OK),
        (doctor_states.check_key("TERP_KEY", None, "line 1 is not base64"), Level.FAIL),
        (doctor_states.check_room(Path("/d"), 50 * GIB, GIB), Level.OK),
        (doctor_states.check_room(Path("/d"), 2 * GIB, GIB), Level.WARN),
        (doctor_states.check_room(Path("/d"), GIB, 2 * GIB), Level.WARN),
        (doctor_states.check_bucket("s3://b/", None), Level.OK),
        (doctor_states.check_bucket("s3://b/", "EndpointConnectionError"), Level.WARN),
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


def test_room_is_said_in_sandboxes() -> None:
    """What the reserve takes is not offered."""
    check = doctor_states.check_room(Path("/d"), 21 * GIB, GIB)

    assert "about 107 paused sandboxes" in check.found
    assert "about 0 paused" in doctor_states.check_room(Path("/d"), GIB, 2 * GIB).found


def test_the_nearest_mount_counts() -> None:
    """A folder is of the file system of the closest mount above it; the last of two at one place."""
    mounts = (
        "/dev/vda / ext4 rw 0 0\nudev /dev devtmpfs rw 0 0\nnone /dev/shm ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n"
    )

    assert doctor_states._file_system(Path("/dev/shm"), mounts) == "tmpfs"
    assert doctor_states._file_system(Path("/etc"), mounts) == "ext4"
    assert doctor_states._file_system(Path("/nowhere"), mounts) is None


def test_a_wrong_key_is_found_and_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor looks, and changes nothing."""
    monkeypatch.delenv("TERP_KEY", raising=False)
    config = Config(data_dir=tmp_path)

    assert doctor_states._examine_key(config).level is Level.OK
    assert list(tmp_path.iterdir()) == []
    config.server_key_file.parent.mkdir()
    config.server_key_file.write_text("c2VjcmV0\n")
    check = doctor_states._examine_key(config)
    assert check.level is Level.FAIL
    assert "c2VjcmV0" not in check.found
