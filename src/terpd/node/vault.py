"""
One run of `terp-vault` (vault/src/main.rs): a secret and lines go in, events come out as lines of JSON.

It is a process of its own since it holds guest memory and works on more than one processor. Its end is the end of all
it held, and it ends by itself when this process dies before it was told to begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from terpd.node.jail.process import ended

_SECRET_BYTES = 32
_MAX_LINE_BYTES = 4096  # its longest, an error, has 500 characters of text
_END_S = 5.0  # from its last event to its end: it has nothing left to do


class VaultFailed(Exception):
    """
    It refused, failed, died or did not answer in time. For the log.

    Attributes:
        code: `disk_full`, `damaged`, `gone`, `invalid` or `failed`, as vault/src/fault.rs defines them.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Vault:
    """
    Leaving the context kills it.

    Args:
        program: The binary.
        arguments: Of its command line; no secrets.
        secret: 32 bytes.
        fds: Inherited under the same numbers; all above 2.

    Blocks the loop for the spawn alone, about 0.5 ms. Raises VaultFailed.
    """

    def __init__(self, program: Path, arguments: Sequence[str], *, secret: bytes, fds: Sequence[int] = ()) -> None:
        if len(secret) != _SECRET_BYTES:
            raise ValueError(f"the secret has {len(secret)} bytes and not {_SECRET_BYTES}")
        self._received = b""
        with contextlib.ExitStack() as undo:
            theirs_in, self._input = _pipe(undo)
            self._output, theirs_out = _pipe(undo)
            actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
                (os.POSIX_SPAWN_DUP2, theirs_in, 0),
                (os.POSIX_SPAWN_DUP2, theirs_out, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                # Onto itself: the descriptor stays open over the exec, in the child and nowhere else.
                *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds),
            ]
            try:
                self._pid = os.posix_spawn(program, [str(program), *arguments], {}, file_actions=actions, setsigmask=())
            except OSError as error:
                raise VaultFailed("failed", f"{program}: {error.strerror}; `make setup` builds it") from error
            undo.callback(os.waitpid, self._pid, 0)
            undo.callback(os.kill, self._pid, signal.SIGKILL)
            self._pidfd = os.pidfd_open(self._pid)
            undo.pop_all()
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(self._output, False)
        self._send(secret)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        # Ours until it is waited for, so its number cannot be a stranger's.
        os.kill(self._pid, signal.SIGKILL)
        os.close(self._input)
        os.close(self._output)
        try:
            # Giving back its memory takes a while, and what it has begun to write to a disk ends first.
            await ended(self._pidfd)
        except BaseException:
            threading.Thread(target=os.waitpid, args=(self._pid, 0), daemon=True).start()
            raise
        else:
            os.waitpid(self._pid, 0)  # noqa: ASYNC222  it has ended
        finally:
            os.close(self._pidfd)

    def tell(self, line: str) -> None:
        """A line without its end."""
        self._send(line.encode() + b"\n")

    async def event(self, name: str, *, within_s: float) -> Mapping[str, object]:
        """
        Return its next event, which must be *name*.

        Raises:
            VaultFailed: It says why it cannot, ended, or did not answer in time.
        """
        try:
            line = await asyncio.wait_for(self._line(), within_s)
        except TimeoutError as error:
            raise VaultFailed("failed", f"the vault was not {name} within {within_s:.0f} s") from error
        event: Mapping[str, object] = json.loads(line)
        if event["event"] == name:
            return event
        if event["event"] == "error":
            raise VaultFailed(str(event["code"]), str(event["detail"]))
        raise VaultFailed("failed", f"the vault said {event['event']} and not {name}")

    def _send(self, content: bytes) -> None:
        # Never blocks: all that is ever sent fits into a pipe.
        with contextlib.suppress(BrokenPipeError):  # it has ended; reading its events tells why
            os.write(self._input, content)

    async def _line(self) -> bytes:
        while b"\n" not in self._received:
            if len(self._received) > _MAX_LINE_BYTES:
                raise VaultFailed("failed", "the vault says too much")
            await _readable(self._output)
            received = os.read(self._output, _MAX_LINE_BYTES)
            if not received:
                raise VaultFailed("failed", f"the vault ended without a word: {await self._exit_code()}")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line

    async def _exit_code(self) -> str:
        """Of a process that has closed its output. It stays ours to reap."""
        try:
            await asyncio.wait_for(ended(self._pidfd), _END_S)
        except TimeoutError:
            return "it runs still"
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  it has ended
        return "it is unknown how" if found is None else f"exit code or signal {found.si_status}"


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    undo.callback(os.close, read)
    undo.callback(os.close, write)
    return read, write


async def _readable(fd: int) -> None:
    """Return when there is something to read, or the other end is closed."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(fd, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(fd)


@contextlib.contextmanager
def opened(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """A descriptor to pass on."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)
