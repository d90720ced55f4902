"""One background command."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import time

from terp import pairs
from terp._async.client import AsyncTerp
from terp._async.following import follow
from terp.errors import DeadlineExceeded, LogDropped
from terp.models import CommandInfo, ExecEvent, LogPage
from terp.protocol import command_replies as replies
from terp.protocol import command_requests as requests
from terp.protocol.request import Request

FIRST_POLL_S = 0.1
LAST_POLL_S = 1.0


class AsyncCommand:
    """
    A command that runs in the background: `AsyncSandbox.start` starts one, `AsyncSandbox.command` finds it again.

        server = await sbx.start("python -m http.server 8000")
        async for event in server.stream():
            print(event)

    It needs no connection, goes on after a pause, and ends with its sandbox. What it writes, stdout and stderr in the
    order of writing, goes to a log in the sandbox, whose last 64 MiB are kept.

    Every method may raise ExecNotFound, StateConflict (the sandbox does not run), and what any request may raise:
    ConnectionFailed, RequestTimeout, Unauthenticated.
    """

    def __init__(self, client: AsyncTerp, sandbox_id: str, info: CommandInfo) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._info = info

    async def refresh(self) -> None:
        """Ask the server how the command is now."""
        request = requests.get_command(self._sandbox_id, self.id)
        self._info = replies.read_command(await self._client.call(request))

    async def wait(self, timeout: float | None = None) -> int | None:
        """
        Return the exit code when the command has ended; None when it was killed.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            DeadlineExceeded: It still runs then. Nothing is done to it.
        """
        end = None if timeout is None else time.monotonic() + timeout
        delay = FIRST_POLL_S
        await self.refresh()
        while self.status == "running":
            left = delay if end is None else end - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"The command {self.id} still runs after {timeout} s")
            await pairs.sleep_async(min(delay, left))
            delay = min(delay * 1.5, LAST_POLL_S)
            await self.refresh()
        return self.exit_code

    async def kill(self) -> None:
        """End it and all it started: SIGTERM, then SIGKILL. Doing it again, or when it has ended, does nothing."""
        await self._client.call(requests.kill_command(self._sandbox_id, self.id))
        await self.refresh()

    async def logs(self, offset: int | None = None) -> LogPage:
        """
        Return a part of what it has written.

        Args:
            offset: Bytes to leave out: `next_offset` of the page before. None: from the first that is kept.

        Raises:
            LogDropped: What is there is not kept any more.
        """
        try:
            return await self._page(offset or 0)
        except LogDropped as error:
            if offset is not None or error.first_offset is None:
                raise
            return await self._page(error.first_offset)

    async def stream(self, offset: int = 0) -> pairs.AsyncStream[ExecEvent]:
        """
        Yield what it writes from *offset* on as `Stdout`, and `Exited` when it ends by itself.

        A broken connection is made again, and nothing is lost or comes twice.

        Raises:
            ExecKilled: It was killed.
            LogDropped: What is there is not kept any more, or the reader was too slow.
            StateConflict: The sandbox was paused. After a resume go on from `event.offset + len(event.data)`.
        """
        request_at = functools.partial(_follow, self._sandbox_id, self.id)
        async with contextlib.aclosing(follow(self._client, request_at, offset=offset, gaps=False)) as events:
            async for event in events:
                yield event

    async def _page(self, offset: int) -> LogPage:
        request = requests.read_log(self._sandbox_id, self.id, offset=offset)
        return replies.read_log(await self._client.call(request), offset=offset)

    # ---- what the server said last ----

    @property
    def info(self) -> CommandInfo:
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


def _follow(sandbox_id: str, command_id: str, offset: int) -> Request:
    return requests.follow_log(sandbox_id, command_id, offset=offset)
