"""
Starting a program in its jail: the spec, and the launcher `terp-jail` that carries it out (jail/src/main.rs).

The launcher prints the program's pid and lets it exec only then, so whoever dies, no program runs whose pid nobody
had been told. What is left of a failed launch is the cgroup, empty.

The program joins its cgroup while it starts: a first move costs an RCU grace period, 11 ms in the median on Linux 6.18,
and QEMU needs twice that before it looks at anything of the guest's. If the daemon dies in between, the program has
no record, and the next daemon ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from terpd.node.jail.cgroup import Cgroup
from terpd.node.jail.process import Process, ended

_TIMEOUT_S = 20.0  # a launch takes 3-5 ms; a host that swaps or starves may take very much longer
_MAX_REPORT_BYTES = 4096
_FILES = "/m/"  # the only place in the jail that holds files of the machine
_ERRORS_BYTES = 8192


class LaunchFailed(Exception):
    """The launcher says which step failed, or that the program could not be executed. Nothing runs. For the log."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A regular file of the host, shown in the jail as *target*: `/m/<name>`. No symbolic link."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class JailSpec:
    """
    A program and all that it will ever reach.

    Attributes:
        name: The machine's id; becomes the host name in the jail. 1 to 63 of [A-Za-z0-9._-].
        root: A prepared root (`jail.root`), shown read-only.
        argv: Absolute path in the jail, and arguments. The environment is empty.
        fds: Inherited under the same numbers; all above 2. Any others are closed.
        uid, gid: What to become; needed when this process is root. Otherwise its own, or None.
        stderr: Where the program's standard error goes; None is /dev/null. Never a pipe that somebody must read, nor
            a file that can grow: see `ErrorText`. Its standard input and output are /dev/null.
    """

    name: str
    root: Path
    argv: Sequence[str]
    binds: Sequence[Bind] = ()
    fds: Sequence[int] = ()
    uid: int | None = None
    gid: int | None = None
    cgroup: Cgroup | None = None
    stderr: int | None = None


class ErrorText:
    """
    The first 8 KiB of what a program writes to its standard error; more is refused to it.

    It is memory of fixed size: nobody has to read it, so the program never waits, and it fills no disk.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, _ERRORS_BYTES)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.fd)

    def text(self) -> str:
        """What was written so far, in one line."""
        written = os.pread(self.fd, _ERRORS_BYTES, 0).split(b"\0", 1)[0]
        return " | ".join(written.decode(errors="replace").split("\n")).strip(" |")


async def launch(spec: JailSpec, *, launcher: Path) -> int:
    """
    Start the program in its jail and return its pid as the host sees it. It runs on when this process ends.

    Blocks the loop for the spawn alone, about 0.5 ms. It is in its cgroup on return.

    Raises:
        LaunchFailed: Nothing runs. A cgroup that the spec named may be there, empty.
    """
    with _pipe() as (told, tell), _pipe() as (complaint, complain):
        launcher_pid = _spawn(spec, launcher, tell.fileno(), complain.fileno())
        try:
            status = await asyncio.wait_for(_exit_code(launcher_pid), _TIMEOUT_S)
        except BaseException as error:
            _abandon(launcher_pid, told)
            if isinstance(error, TimeoutError):
                raise LaunchFailed(f"the launcher did not finish within {_TIMEOUT_S:.0f} s") from error
            raise
        if status != 0:
            _end(told)  # told and then killed, by the kernel for want of memory or by an operator
            said = (complaint.read(_MAX_REPORT_BYTES) or b"").decode(errors="replace").strip()
            raise LaunchFailed(said or f"the launcher ended with {status}")
        pid = int(told.read(_MAX_REPORT_BYTES))
    if spec.cgroup is not None:
        await _join(spec.cgroup, pid)
    return pid


async def _join(cgroup: Cgroup, pid: int) -> None:
    """Move the program into its cgroup, or end it."""
    try:
        process = Process.of(pid)
    except ProcessLookupError as error:
        raise LaunchFailed("the program ended at once") from error
    joining = asyncio.create_task(asyncio.to_thread(cgroup.join, pid))
    try:
        await asyncio.shield(joining)
    except BaseException as error:
        process.kill()
        if isinstance(error, ProcessLookupError):
            raise LaunchFailed("the program ended at once") from error
        if isinstance(error, OSError):
            raise LaunchFailed(f"the program cannot join its cgroup: {error}") from error
        # Cancelled: the thread must be done with this pid before anybody removes the cgroup or the pid is used again.
        await asyncio.wait([joining])
        raise


def _spawn(spec: JailSpec, launcher: Path, stdout: int, stderr: int) -> int:
    arguments = _arguments(spec)
    kept = [*spec.fds] if spec.stderr is None else [*spec.fds, spec.stderr]
    actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
        # Onto itself: the descriptor stays open over the exec, in the child and nowhere else (glibc 2.29 and newer).
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in kept),
    ]
    try:
        # Not by subprocess: that costs 1 ms more, and the loop's child watchers are of no use here.
        return os.posix_spawn(launcher, [str(launcher), *arguments], {}, file_actions=actions, setsigmask=())
    except OSError as error:
        raise LaunchFailed(f"{launcher}: {error.strerror}; `make setup` builds it") from error


def _arguments(spec: JailSpec) -> list[str]:
    arguments = ["--name", spec.name, "--root", str(spec.root)]
    if spec.uid is not None and os.geteuid() == 0:
        arguments += ["--uid", str(spec.uid), "--gid", str(spec.uid if spec.gid is None else spec.gid)]
    if spec.stderr is not None:
        arguments += ["--stderr", str(spec.stderr)]
    for fd in spec.fds:
        arguments += ["--fd", str(fd)]
    for bind in spec.binds:
        if not bind.target.startswith(_FILES):
            raise LaunchFailed(f"a file can appear below {_FILES} only: {bind.target}")
        arguments += ["--rw" if bind.writable else "--ro", str(bind.source), bind.target.removeprefix(_FILES)]
    return [*arguments, "--", *spec.argv]


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """A pipe that nobody waits for: what is read is there already, since its writer is dead."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with io.FileIO(read) as reader, io.FileIO(write, "w") as writer:
        yield reader, writer


async def _exit_code(pid: int) -> int:
    """Wait for a child of ours and return its exit code, negative for a signal."""
    pidfd = os.pidfd_open(pid)
    try:
        await ended(pidfd)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  it has ended


def _abandon(pid: int, told: io.FileIO) -> None:
    """Kill the launcher, and the program if its pid was printed: otherwise it ends by itself."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    _end(told)


def _end(told: io.FileIO) -> None:
    """Kill the program that a dead launcher had told of, if it had."""
    if printed := told.read(_MAX_REPORT_BYTES):
        with contextlib.suppress(ValueError, ProcessLookupError):
            Process.of(int(printed)).kill()
