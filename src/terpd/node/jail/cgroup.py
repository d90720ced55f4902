"""
Cgroups of machines, one each: what a machine may use, what it used, and a way to kill all of it.

    <base>/terp-<instance>/<machine id>          in one hierarchy (v2), in several (v1), or in none

Machines outlive the daemon, so their cgroups lie beside the daemon's own, never below it: a service manager that
stops the daemon kills what is below. What cannot be had is left out and `enforced()` says so; `terpd doctor` shows it.
Sources: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What QEMU needs beside the guest's memory: 20 MiB idle, 157 MiB after a guest ran much code under emulation (the
# translation buffer fills), measured on QEMU 10.0.2; and the page cache of the disk and of the template's memory, which
# the kernel takes back when the limit is near.
OVERHEAD_BYTES = 224 << 20

# QEMU's threads: up to 64 for disk requests (ThreadPool's default), one a vCPU, main loop, signals, snapshots. It
# aborts when it cannot start one.
MONITOR_THREADS = 128

_PERIOD_US = 100_000  # of the cpu quota; the kernel's default
_REMOVE_TIMEOUT_S = 5.0
_POLL_S = 0.002
_WANTED = ("cpu", "memory", "pids")


@dataclass(frozen=True, slots=True)
class Limits:
    """
    `cpu_cores` may be a fraction, at least 0.01. `memory_bytes` is all that is charged: guest memory as far as it was
    written, `OVERHEAD_BYTES`, page cache. `pids` counts threads.
    """

    cpu_cores: float
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True)
class Usage:
    """
    `cpu_usage_us` since the cgroup was made; `memory_bytes` now, without the page cache that is taken back first: its
    working set. None where the host does not count it.
    """

    cpu_usage_us: int | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One machine's directories, one in each hierarchy."""

    directories: Sequence[Path]

    def join(self, pid: int) -> None:
        """
        Move a process, with all its threads, into it. Blocks: 0.3 ms, or 11 ms when the kernel has to wait for an
        RCU grace period first (measured, Linux 6.18).

        Raises:
            ProcessLookupError: It has ended.
            OSError: The kernel refused. It may be in some of the hierarchies.
        """
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """SIGKILL to every process in it. Returns before they are gone; `remove` waits for that."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                (directory / "cgroup.kill").write_text("1")
        # Where there is no cgroup.kill (v1, or Linux before 5.14), or a launcher died before it had joined that
        # hierarchy. A fork during the walk is found by remove(), which walks again.
        for pid in {pid for directory in self.directories for pid in _members(directory)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """
        Remove it once it is empty; what lives in it is killed. Idempotent. Blocks, 5 s at most.

        Raises:
            OSError: EBUSY, a process in it does not die (it hangs in the kernel). Try again later.
        """
        deadline = time.monotonic() + _REMOVE_TIMEOUT_S
        for directory in self.directories:
            while not _removed(directory):
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, "Processes in the cgroup do not end", str(directory))
                self.kill()
                time.sleep(_POLL_S)

    def usage(self) -> Usage:
        cpu = memory = None
        for directory in self.directories:
            if (text := _read(directory / "cpu.stat")) and "usage_usec" in text:
                cpu = int(dict(line.split() for line in text.splitlines())["usage_usec"])
            elif text := _read(directory / "cpuacct.usage"):
                cpu = int(text) // 1000
            if text := _read(directory / "memory.current") or _read(directory / "memory.usage_in_bytes"):
                memory = max(int(text) - _inactive(directory), 0)
        return Usage(cpu, memory)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted cgroup file system. `controllers` is empty for a v2 that has none to give (then it still kills)."""

    version: int
    base: Path
    controllers: frozenset[str]


class CgroupTree:
    """
    All cgroups of one daemon's machines.

    Args:
        instance: Keeps daemons on one host apart; of [a-z0-9].
        hierarchies: For tests; what this host has by default.
    """

    def __init__(self, instance: str, hierarchies: Sequence[Hierarchy] | None = None) -> None:
        self._name = f"terp-{instance}"
        found = find_hierarchies() if hierarchies is None else hierarchies
        self._roots = [(root, each) for each in found if (root := self._prepare(each))]

    @property
    def mode(self) -> str:
        """`v2`, `v1` (with v2 beside it or not) or `none`, by where the limits are."""
        versions = {each.version for _, each in self._roots if each.controllers}
        return f"v{min(versions)}" if versions else "none"

    def enforced(self) -> frozenset[str]:
        """Which of cpu, memory and pids are limited, and `kill` where one write kills all of a machine."""
        limited = {name for root, each in self._roots for name in _usable(root, each)}
        if any(each.version == 2 and (root / "cgroup.procs").exists() for root, each in self._roots):
            limited.add("kill")
        return frozenset(limited)

    def create(self, name: str, limits: Limits) -> Cgroup:
        """
        Make the cgroup of machine *name*, or take the one that is there, and set its limits.

        Raises:
            OSError: The kernel refused a limit of a controller that is there. An empty cgroup may be left behind.
        """
        directories = []
        for root, hierarchy in self._roots:
            directory = root / name
            directory.mkdir(exist_ok=True)
            directories.append(directory)
            usable = _usable(root, hierarchy)
            for file, value in _settings(hierarchy.version, usable, limits).items():
                path = directory / file
                if path.exists():  # swap accounting may be off
                    path.write_text(value)
        return Cgroup(directories)

    def find(self, name: str) -> Cgroup | None:
        directories = [root / name for root, _ in self._roots if (root / name).is_dir()]
        return Cgroup(directories) if directories else None

    def list(self) -> Sequence[str]:
        """Names of all machines that have a cgroup, or a rest of one, in any hierarchy."""
        return sorted({entry.name for root, _ in self._roots for entry in root.iterdir() if entry.is_dir()})

    def discard(self) -> None:
        """Remove the daemon's own directories too, if no machine is left in them. The tree is unusable after."""
        for root, _ in self._roots:
            with contextlib.suppress(OSError):
                root.rmdir()

    def close(self) -> None:
        """Remove what is common to all machines, unless one is left. The tree cannot be used afterwards."""
        for root, _ in self._roots:
            with contextlib.suppress(OSError):  # EBUSY: a machine lives on
                root.rmdir()

    def _prepare(self, hierarchy: Hierarchy) -> Path | None:
        root = hierarchy.base / self._name
        try:
            root.mkdir(exist_ok=True)
        except OSError:  # read-only in a container, or not ours
            return None
        if hierarchy.version == 2:
            for parent in (hierarchy.base, root):
                for name in hierarchy.controllers:
                    # One by one: a controller that cannot be had must not cost the others.
                    with contextlib.suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text(f"+{name}")
        return root


def find_hierarchies(
    mountinfo: str | None = None, own: str | None = None, *, root: bool | None = None
) -> list[Hierarchy]:
    """
    Find the cgroup hierarchies in which machines can be placed.

    Args:
        mountinfo, own: Content of /proc/self/mountinfo and /proc/self/cgroup, by default of this process.
        root: Whether this process is root. Otherwise it may use v2 only, beside its own cgroup, where a user's
            service manager has delegated that.
    """
    mountinfo = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    own = Path("/proc/self/cgroup").read_text() if own is None else own
    root = os.geteuid() == 0 if root is None else root
    found: dict[str, Hierarchy] = {}
    # The first mount of each: later ones are views of it that others made (for a container, say) and take away again.
    for line in mountinfo.splitlines():
        # proc(5): id parent major:minor root mount-point options [optional…] - type source super-options
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        mount_point = Path(before.split(" ")[4].replace("\\040", " "))
        if kind == "cgroup2":
            base = mount_point if root else _beside(mount_point, own)
            offered = (_read(base / "cgroup.controllers") or "").split()
            found.setdefault("v2", Hierarchy(2, base, frozenset(offered) & frozenset(_WANTED)))
        elif kind == "cgroup" and root:
            options = rest.rpartition(" ")[2].split(",")
            controllers = {name for name in (*_WANTED, "cpuacct") if name in options}
            if controllers:
                found.setdefault(",".join(sorted(controllers)), Hierarchy(1, mount_point, frozenset(controllers)))
    return list(found.values())


def _beside(mount_point: Path, own: str) -> Path:
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    return mount_point / Path(path).parent.relative_to("/")


def _usable(root: Path, hierarchy: Hierarchy) -> frozenset[str]:
    """Controllers that limit what is in *root*'s children."""
    if hierarchy.version == 1:
        return hierarchy.controllers - {"cpuacct"}
    return hierarchy.controllers & frozenset((_read(root / "cgroup.subtree_control") or "").split())


def _settings(version: int, controllers: frozenset[str], limits: Limits) -> Mapping[str, str]:
    """File → value, in the order to write. Swap is denied: guest memory must not reach a disk."""
    quota = max(round(limits.cpu_cores * _PERIOD_US), 1000)  # the kernel's minimum is 1 ms
    memory, pids = str(limits.memory_bytes), str(limits.pids)
    settings: dict[str, str] = {}
    if "cpu" in controllers:
        v1 = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
        settings |= v1 if version == 1 else {"cpu.max": f"{quota} {_PERIOD_US}"}
    if "memory" in controllers:
        v1 = {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory}
        settings |= v1 if version == 1 else {"memory.max": memory, "memory.swap.max": "0", "memory.oom.group": "1"}
    if "pids" in controllers:
        settings["pids.max"] = pids
    return settings


def _inactive(directory: Path) -> int:
    """Bytes of files that were not used lately. v1 tells of the directory itself, and with `total_` of all below."""
    counted = dict(line.split() for line in (_read(directory / "memory.stat") or "").splitlines())
    return int(counted.get("total_inactive_file") or counted.get("inactive_file") or 0)


def _members(directory: Path) -> list[int]:
    return [int(line) for line in (_read(directory / "cgroup.procs") or "").split()]


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
