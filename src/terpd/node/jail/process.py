"""
Processes of the host, named so that a daemon started later still means the same one.

A pid alone is reused. A pid with the start time of its process is not: proc(5), field 22 of /proc/PID/stat, in clock
ticks since boot. Signals go through a pidfd, opened first and then compared, so that they never hit a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_SYS_PIDFD_GETFD = 438  # the same on all architectures
_STATE = 0  # in /proc/PID/stat, counted after the name in parentheses: field 3
_START_TIME = 19  # field 22
_DEAD = (b"Z", b"X")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that ran once. `started` is in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """
        Name the process that has this pid now.

        Raises:
            ProcessLookupError: None has.
        """
        return cls(pid, int(_stat(pid)[_START_TIME]))

    def alive(self) -> bool:
        """Whether it runs still; a zombie does not."""
        try:
            fields = _stat(self.pid)
        except ProcessLookupError:
            return False
        return int(fields[_START_TIME]) == self.started and fields[_STATE] not in _DEAD

    def kill(self) -> None:
        """Send SIGKILL, which PID 1 of a pid namespace cannot ignore. Gone already: nothing to do."""
        with self._pidfd() as fd, contextlib.suppress(ProcessLookupError):
            if fd is not None:
                signal.pidfd_send_signal(fd, signal.SIGKILL)

    async def wait(self) -> None:
        """Return when it has ended, at once if it did before. Any number of callers."""
        with self._pidfd() as fd:
            if fd is not None:
                await ended(fd)
        # An orphan of this daemon's is its child (`become_parent_of_orphans`), as one of any daemon's is of init's. It
        # is reaped also when it had ended before anybody waited, but never a later process of the same number.
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if int(_stat(self.pid)[_START_TIME]) == self.started:
                os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222  does not block

    def descriptor(self, number: int) -> int:
        """
        Return a duplicate of a descriptor that the process has open: pidfd_getfd(2), Linux 5.6 and newer.

        Raises:
            OSError: It has none of that number, or we may not (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS).
            ProcessLookupError: The process is gone.
        """
        with self._pidfd() as fd:
            if fd is None:
                raise ProcessLookupError(f"No process has pid {self.pid} any more")
            found = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, fd, number, 0)
        if found < 0:
            raise OSError(ctypes.get_errno(), f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
        return int(found)

    @contextmanager
    def _pidfd(self) -> Iterator[int | None]:
        """A pidfd of this process; None when it is gone. A pidfd holds on to its process, so compare after opening."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield fd if self.alive() else None
        finally:
            os.close(fd)


async def ended(pidfd: int) -> None:
    """Return when the process of that pidfd has ended."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(pidfd, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(pidfd)


def become_parent_of_orphans() -> None:
    """
    Make this process, and not the host's init, the parent of machines whose launcher has ended.

    They are then reaped the moment they end, where an init may leave them as zombies for a minute (seen in containers).
    They outlive this process all the same, as children of init.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def scan(prefix: str) -> list[tuple[str, Process]]:
    """
    Find the QEMUs of this host whose name (`-name`, first option of their command line) begins with *prefix*.

    For machines without record: what is found by name only may be anybody's imitation, so nothing but an end is to
    be done to it. Blocks; about 10 µs for each process of the host.
    """
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            name = machine_name((directory / "cmdline").read_bytes())
            if name is not None and name.startswith(prefix):
                found.append((name, Process.of(int(directory.name))))
        except OSError:  # it ended meanwhile
            continue
    return found


def machine_name(cmdline: bytes) -> str | None:
    """Return what follows `-name` in a QEMU's /proc/PID/cmdline, if that is its first option."""
    arguments = cmdline.split(b"\0")
    if len(arguments) < 3 or b"qemu-system" not in arguments[0] or arguments[1] != b"-name":
        return None
    return arguments[2].decode(errors="replace")


def _stat(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the third on. The second, the name, may hold anything, `)` included."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"No process has pid {pid}") from error
    return content[content.rindex(b")") + 2 :].split()
