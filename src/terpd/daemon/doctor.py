"""
What this host can and cannot do for machines: one `Check` a fact, each lack with what to do about it.

The `check_` functions are pure: values in, a verdict out. `examine` looks at the host and really starts a program in a
jail; it leaves nothing behind but the prepared root and the remembered probe, which the server would make as well.
"""

from __future__ import annotations

import os
import platform
import re
import resource
from collections.abc import Sequence
from pathlib import Path

from terpd.daemon.check import GIB, Check, Level
from terpd.daemon.config import Config
from terpd.daemon.doctor_network import examine_network
from terpd.daemon.doctor_states import examine_states, free_bytes
from terpd.daemon.node import AGENT, LAUNCHER, VAULT
from terpd.node.jail.cgroup import CgroupTree
from terpd.node.jail.launch import ErrorText, JailSpec, LaunchFailed, launch
from terpd.node.jail.process import Process
from terpd.node.jail.root import JailRoot, RootFailed, prepare_root
from terpd.node.template.catalog import Catalog
from terpd.node.template.kernel import find_kernel
from terpd.node.vmm.accel import Acceleration, Trial, probe

_MIN_FREE_DISK = 1 * GIB  # one template image with its snapshot
_GOOD_FREE_DISK = 10 * GIB  # a handful of templates, and what sandboxes write
_GOOD_FREE_MEMORY = 2 * GIB
# The daemon's: two sockets, a pidfd, eight of a network, and while it starts the sockets' listeners, state and pipes.
_FILES_PER_MACHINE = 16
_FILES_BESIDES = 512  # database, HTTP clients


async def examine(config: Config) -> list[Check]:
    """All checks, in the order of a reader's interest. Some seconds on the first call on a host."""
    uid = config.uid_first + config.uid_count - 1  # at the end of the range, away from machines
    checks = [check_host_kernel(platform.release())]
    try:
        root: JailRoot | None = prepare_root(config.home)
    except (RootFailed, OSError) as error:
        root = None
        checks.append(Check("QEMU", Level.FAIL, str(error), "Run `make setup`, or install qemu-system-x86 10 yourself"))
    if root is not None:
        checks.append(check_qemu(root.qemu_version))
        checks.append(await _examine_jail(root, uid))
        checks.append(await _examine_acceleration(config.home, root, uid))
    tree = CgroupTree("doctor")
    checks.append(check_cgroups(tree.mode, tree.enforced()))
    tree.discard()
    checks += [
        check_programs({path.name: path.is_file() for path in (LAUNCHER, AGENT, VAULT)}),
        check_user_namespaces(
            _sysctl("user/max_user_namespaces"),
            _sysctl("kernel/unprivileged_userns_clone"),
            _sysctl("kernel/apparmor_restrict_unprivileged_userns"),
            root=os.geteuid() == 0,
        ),
        check_seccomp(_sysctl("kernel/seccomp/actions_avail")),
        check_uids(config.uid_first, config.uid_count, _taken_ids(), root=os.geteuid() == 0),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], config.machines_cap),
        check_memory(_available_memory()),
        check_disk(config.home, free_bytes(config.home)),
        check_home(config.home, *_contents(config.home)),
        await examine_network(),
    ]
    return [*checks, *await examine_states(config)]


# ---- verdicts ------------------------------------------------------------------------------------


def check_host_kernel(release: str) -> Check:
    found = re.match(r"(\d+)\.(\d+)", release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < (5, 12):  # mount_setattr(2)
        return Check(
            "host kernel", Level.FAIL, release, "The jail needs Linux 5.12 or newer; upgrade the host's kernel"
        )
    if version < (5, 14):  # cgroup.kill
        return Check("host kernel", Level.WARN, release, "Linux 5.14 or newer ends a machine in one step; upgrade it")
    return Check("host kernel", Level.OK, release)


def check_qemu(version: str) -> Check:
    parts = tuple(int(part) for part in version.split("."))
    install = "install qemu-system-x86 10 (Debian 12: from backports)"
    if parts < (8, 2):  # memory-backend-file,rom=off and migration from a file
        advice = f"Machines cannot be restored from a template's snapshot before QEMU 8.2; {install}"
        return Check("QEMU", Level.FAIL, version, advice)
    if parts < (10,):
        advice = f"Nothing is known to be missing, but restores were measured and tested with QEMU 10 only; {install}"
        return Check("QEMU", Level.WARN, version, advice)
    return Check("QEMU", Level.OK, version)


def check_acceleration(result: Acceleration) -> Check:
    found = f"{result.name}: {result.reason}"
    if result.name == "kvm":
        return Check("acceleration", Level.OK, found)
    return Check(
        "acceleration",
        Level.WARN,
        found,
        "Guests are emulated: they work, and compute ten times slower or more. For full speed use a host with hardware "
        "virtualisation, or enable nested virtualisation for this one, and let the server's user open /dev/kvm",
    )


def check_cgroups(mode: str, enforced: frozenset[str]) -> Check:
    wanted = ("cpu", "memory", "pids")
    missing = [name for name in wanted if name not in enforced]
    held = ", ".join(name for name in wanted if name in enforced) or "nothing"
    found = f"{mode}: {held} enforced"
    if not missing:
        return Check("cgroups", Level.OK, found)
    advice = (
        f"Machines are not limited in: {', '.join(missing)}. Run the server as root, or give its cgroup's parent "
        "these controllers (systemd: Delegate=yes); in a container mount /sys/fs/cgroup writable"
    )
    return Check("cgroups", Level.WARN, found, advice)


def check_programs(built: dict[str, bool]) -> Check:
    missing = [name for name, there in built.items() if not there]
    if missing:
        return Check("programs", Level.FAIL, f"not built: {', '.join(missing)}", "Run `make setup`")
    return Check("programs", Level.OK, ", ".join(built))


def check_user_namespaces(
    maximum: str | None, unprivileged: str | None, restricted: str | None, *, root: bool
) -> Check:
    """The three are sysctls, None where the kernel has no such; the last two matter to others than root only."""
    if maximum in (None, "0"):
        advice = "Set the sysctl user.max_user_namespaces to 15000 or so; every machine needs one"
        return Check("user namespaces", Level.FAIL, "none allowed", advice)
    if not root and unprivileged == "0":
        advice = "Set the sysctl kernel.unprivileged_userns_clone to 1, or run the server as root"
        return Check("user namespaces", Level.FAIL, "for root only", advice)
    if not root and restricted == "1":
        advice = "Set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0, or run the server as root"
        return Check("user namespaces", Level.FAIL, "restricted by AppArmor", advice)
    return Check("user namespaces", Level.OK, f"up to {maximum}")


def check_seccomp(actions: str | None) -> Check:
    if actions is None or "kill_process" not in actions.split():
        advice = "QEMU filters its own system calls; boot a kernel with CONFIG_SECCOMP_FILTER"
        return Check("seccomp", Level.FAIL, actions or "not in this kernel", advice)
    return Check("seccomp", Level.OK, "filters available")


def check_uids(first: int, count: int, taken: Sequence[tuple[str, int, int]], *, root: bool) -> Check:
    """`taken` are (where it stands, first id, count)."""
    if not root:
        advice = "All machines run under one uid and are apart by namespaces alone; run the server as root"
        return Check("uids", Level.WARN, f"not root: all machines have uid {os.geteuid()}", advice)
    found = f"{first}-{first + count - 1}"
    clashes = [where for where, start, number in taken if start < first + count and first < start + number]
    if clashes:
        advice = f"Set uid_first to a range that nobody else has; this one meets: {', '.join(clashes[:5])}"
        return Check("uids", Level.WARN, found, advice)
    return Check("uids", Level.OK, found)


def check_open_files(limit: int, machines: int) -> Check:
    needed = machines * _FILES_PER_MACHINE + _FILES_BESIDES
    if limit != resource.RLIM_INFINITY and limit < needed:
        advice = (
            f"{machines} machines need {needed}; raise it (`ulimit -n`, systemd: LimitNOFILE=) or lower machines_cap"
        )
        return Check("open files", Level.WARN, str(limit), advice)
    return Check("open files", Level.OK, "unlimited" if limit == resource.RLIM_INFINITY else str(limit))


def check_memory(available: int) -> Check:
    found = f"{available / GIB:.1f} GiB available"
    if available < _GOOD_FREE_MEMORY:
        return Check("memory", Level.WARN, found, "Few machines will fit; free some, or configure smaller sizes")
    return Check("memory", Level.OK, found)


def check_disk(home: Path, free: int) -> Check:
    found = f"{free / GIB:.1f} GiB free for {home}"
    if free < _MIN_FREE_DISK:
        return Check("disk", Level.FAIL, found, "Templates and sandboxes cannot be written; free some space")
    if free < _GOOD_FREE_DISK:
        return Check("disk", Level.WARN, found, "Sandboxes share this and fail when it is full; 10 GiB is a good start")
    return Check("disk", Level.OK, found)


def check_home(home: Path, kernel: str | None, templates: Sequence[str]) -> Check:
    found = f"{home}: kernel {kernel or 'none'}, templates {', '.join(templates) or 'none'}"
    if not templates:
        return Check("templates", Level.FAIL, found, "Build one: terpd template build python-3.12")
    return Check("templates", Level.OK, found)


# ---- looking at the host -------------------------------------------------------------------------


async def _examine_jail(root: JailRoot, uid: int) -> Check:
    with ErrorText() as error_text:
        spec = JailSpec(
            name="doctor",
            root=root.path,
            argv=["/usr/bin/qemu-system-x86_64", "--version"],
            uid=uid,
            gid=uid,
            stderr=error_text.fd,
        )
        try:
            await Process.of(await launch(spec, launcher=LAUNCHER)).wait()
        except LaunchFailed as error:
            advice = "No machine can start. In a container, it needs to be privileged (namespaces and mounts)"
            return Check("jail", Level.FAIL, str(error), advice)
        except ProcessLookupError:
            pass  # it was quicker than us, which is what it is meant to be
        if said := error_text.text():
            return Check(
                "jail", Level.FAIL, said, "QEMU does not run in its jail; remove the directory vmm/ and try again"
            )
    return Check("jail", Level.OK, "QEMU runs in it")


async def _examine_acceleration(home: Path, root: JailRoot, uid: int) -> Check:
    kernel = find_kernel(home, "current")
    initrd = max((home / "initrd").glob("*.cpio"), key=lambda path: path.stat().st_mtime, default=None)
    if kernel is None or initrd is None:
        advice = "It is decided by booting a guest, so build a template first: terpd template build python-3.12"
        return Check("acceleration", Level.WARN, "not known yet", advice)
    try:
        return check_acceleration(await probe(home, Trial(root, LAUNCHER, kernel.vmlinux, initrd, uid)))
    except LaunchFailed as error:
        return Check("acceleration", Level.FAIL, f"not known: {error}", "See jail")


def _contents(home: Path) -> tuple[str | None, Sequence[str]]:
    kernel = find_kernel(home, "current")
    return (kernel.version if kernel else None), [image.template for image in Catalog(home).list()]


def _taken_ids() -> list[tuple[str, int, int]]:
    """Users, groups and subordinate ids of the host's files. Those of a directory service are not seen."""
    taken = []
    for name, columns in (("passwd", (2, None)), ("group", (2, None)), ("subuid", (1, 2)), ("subgid", (1, 2))):
        path = Path("/etc") / name
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            fields = line.split(":")
            first, count = columns
            try:
                taken.append((f"{path}: {fields[0]}", int(fields[first]), int(fields[count]) if count else 1))
            except (ValueError, IndexError):
                continue  # a comment, or an entry of NIS
    return taken


def _sysctl(name: str) -> str | None:
    path = Path("/proc/sys") / name
    return path.read_text().strip() if path.is_file() else None


def _available_memory() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
