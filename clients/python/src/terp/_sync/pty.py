# Generated from src/terp/_async/pty.py by tools/sync.py: change that one.
"""Terminals in a sandbox."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import time
from collections.abc import Mapping, Sequence

from terp import pairs
from terp._sync.client import Terp
from terp._sync.following import follow
from terp._sync.part import SandboxPart
from terp.errors import BadReply, ConnectionFailed, DeadlineExceeded, ExecKilled, RequestTimeout, Unavailable
from terp.models import PtyInfo, Stderr, Stdout
from terp.protocol import command_replies as replies
from terp.protocol import command_requests as requests
from terp.protocol.request import Request

MAX_INPUT_BYTES = 32 * 1024  # of one request
ATTEMPTS = 6
FIRST_DELAY_S = 0.1  # doubled each time
FIRST_POLL_S = 0.1
LAST_POLL_S = 1.0


class Pty:
    r"""
    A terminal with a program in it: `Sandbox.pty` opens one, `Sandbox.attach_pty` finds it again.

        pty = sbx.pty()
        pty.write("ls\n")
        for data in pty.output():
            sys.stdout.buffer.write(data)

    It stays when nobody is attached, goes on after a pause, and ends with its program or its sandbox.

    Every method may raise ExecNotFound, StateConflict (the sandbox does not run), and what any request may raise:
    ConnectionFailed, RequestTimeout, Unauthenticated.
    """

    def __init__(self, client: Terp, sandbox_id: str, info: PtyInfo, *, typed: int | None) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._info = info
        self._typed = typed  # bytes that the terminal has accepted; None: others typed, it is to be asked
        self._typing = pairs.Lock()

    def write(self, data: str | bytes) -> None:
        """
        Type *data*: each byte once, also when a connection breaks meanwhile.

        Let one object at a time type into a terminal: what two type at the same moment may be lost.

        Raises:
            LimitExceeded: The program does not read. As with any other error, a part may have been typed.
        """
        left = data.encode() if isinstance(data, str) else bytes(data)
        with self._typing:
            known, self._typed = self._typed, None  # for the next one to ask, unless this one ends well
            end = self._type(None, b"") if known is None else known
            while left:
                begin, piece = end, left[:MAX_INPUT_BYTES]
                end, repeated = self._type_again(begin, piece)
                if end <= begin:
                    raise BadReply(f"The terminal has accepted {end} bytes now, and {begin} before")
                if end <= begin + len(piece) or repeated:
                    left = left[min(end - begin, len(piece)) :]
                # else somebody else had typed before: none of this was taken, so it goes to where the terminal is now
            self._typed = end

    def output(self, offset: int = 0) -> pairs.Stream[bytes]:
        """
        Yield what the terminal shows, escape sequences included, until its program ends.

        A broken connection is made again. The sandbox keeps a bounded part of the output: where older output is gone,
        it goes on with what is kept.

        Args:
            offset: Bytes to leave out.
        """
        request_at = functools.partial(_output, self._sandbox_id, self.id)
        try:
            with contextlib.closing(follow(self._client, request_at, offset=offset, gaps=True)) as events:
                for event in events:
                    if isinstance(event, Stdout | Stderr) and event.data:
                        yield event.data
        except ExecKilled:
            return  # that is how terminals end; `wait` says it

    def resize(self, cols: int, rows: int) -> None:
        """Tell the program that the terminal has another size, in characters, each 1 to 1000."""
        self._client.call(requests.resize_pty(self._sandbox_id, self.id, cols=cols, rows=rows))

    def kill(self) -> None:
        """Hang up, then kill what is still there. Doing it again, or when it has ended, does nothing."""
        self._client.call(requests.close_pty(self._sandbox_id, self.id))

    def refresh(self) -> None:
        """Ask the server how the terminal is now."""
        self._info = replies.read_pty(self._client.call(requests.get_pty(self._sandbox_id, self.id)))

    def wait(self, timeout: float | None = None) -> int | None:
        """
        Return the program's exit code when it has ended; None when it was killed.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            DeadlineExceeded: It still runs then. Nothing is done to it.
        """
        end = None if timeout is None else time.monotonic() + timeout
        delay = FIRST_POLL_S
        self.refresh()
        while self.status == "running":
            left = delay if end is None else end - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"The terminal {self.id} is still open after {timeout} s")
            pairs.sleep(min(delay, left))
            delay = min(delay * 1.5, LAST_POLL_S)
            self.refresh()
        return self.exit_code

    def _type_again(self, offset: int, data: bytes) -> tuple[int, bool]:
        """Return what the terminal has accepted from the start, and whether that took more than one request."""
        failures = 0
        while True:
            try:
                return self._type(offset, data), failures > 0
            except (ConnectionFailed, RequestTimeout, Unavailable):  # noqa: PERF203 - each try is a request
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                pairs.sleep(FIRST_DELAY_S * 2 ** (failures - 1))

    def _type(self, offset: int | None, data: bytes) -> int:
        request = requests.pty_input(self._sandbox_id, self.id, offset=offset)
        return replies.read_typed(self._client.call(request, data))

    # ---- what the server said last ----

    @property
    def info(self) -> PtyInfo:
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def command(self) -> str:
        return self._info.command

    @property
    def pid(self) -> int | None:
        return self._info.pid

    @property
    def status(self) -> str:
        return self._info.status

    @property
    def exit_code(self) -> int | None:
        return self._info.exit_code

    @property
    def started_at(self) -> dt.datetime | None:
        return self._info.started_at

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"


class PtyCalls(SandboxPart):
    """Terminals: the part of a sandbox's surface."""

    def pty(
        self,
        *,
        command: str | Sequence[str] | None = None,
        cols: int = 80,
        rows: int = 24,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
    ) -> Pty:
        """
        Open a terminal.

        Args:
            command: What runs in it, as in `exec`; None for a login shell.
            cols, rows: Its size in characters, each 1 to 1000.
            env: On top of the sandbox's own.

        Raises:
            InvalidRequest: The directory does not exist, or a value is out of bounds.
            StateConflict: The sandbox does not run.
        """
        request = requests.open_pty(self.id, command=command, cols=cols, rows=rows, cwd=cwd, env=env or {})
        return Pty(self._client, self.id, replies.read_pty(self._client.call(request)), typed=0)

    def ptys(self) -> tuple[Pty, ...]:
        """Return the sandbox's terminals, ended ones included as long as it remembers them."""
        found = replies.read_ptys(self._client.call(requests.list_ptys(self.id)))
        return tuple(Pty(self._client, self.id, info, typed=None) for info in found)

    def attach_pty(self, pty_id: str) -> Pty:
        """
        Return a terminal that was opened before.

        Raises:
            ExecNotFound: No such terminal in this sandbox, or it ended long ago.
        """
        info = replies.read_pty(self._client.call(requests.get_pty(self.id, pty_id)))
        return Pty(self._client, self.id, info, typed=None)


def _output(sandbox_id: str, pty_id: str, offset: int) -> Request:
    return requests.pty_output(sandbox_id, pty_id, offset=offset)
