"""
The output of background commands, for any number of followers of each.

    guest's log ──one stream──► hub: the last MiB ──► followers that keep up
         └───────read in pages, shared──────────────► followers further back

Whoever follows a command, its node is asked for one stream: a hub pulls it, a little ahead of the follower that is
furthest. Those who are behind what the hub holds read pages of the guest's log until they have caught up. So nobody
slows another down or the command, nobody loses a byte, and memory is bounded. A hub ends with its last follower.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog

from terpd.control.exec import close
from terpd.model.errors import GuestFault, Internal, LogDropped, TerpError
from terpd.model.guest import ExecEvent, ExecExited, ExecOutput, ExecStarted, LogPage, OutputStream
from terpd.model.ids import ExecId, SandboxId
from terpd.model.ports import Node

BUFFER_BYTES = 1 << 20
AHEAD_BYTES = 256 << 10  # pulled before the furthest follower asks for it
PAGE_BYTES = 256 << 10
PIECE_BYTES = 64 << 10  # of one event

_PAGES = 4  # kept, whole ones only: a log does not change where it is written
_READS = 4  # of pages at once
_MISSES = 3  # a guest that has no bytes where it said that there are some

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Follower:
    position: int


class Tails:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._hubs: dict[tuple[SandboxId, ExecId], _Hub] = {}

    async def follow(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> AsyncGenerator[ExecEvent, None]:
        """
        Yield one ExecStarted, the log from *offset* on as stdout, and one ExecExited.

        Raises:
            LogDropped: What is at *offset*, or where a slow follower has got to, is not kept any more.
            ExecNotFound.
            StateConflict: The sandbox was paused.
            GuestFault.
        """
        key = (sandbox_id, exec_id)
        hub = self._hubs.get(key)
        if hub is None or hub.failed:
            hub = self._hubs[key] = _Hub(self._node, sandbox_id, exec_id, offset)
        follower = _Follower(offset)
        hub.followers.add(follower)
        try:
            started = await hub.started(follower)
            yield started
            while (event := await hub.next(follower)) is not None:
                yield event
            yield hub.exited_of()
        finally:
            hub.followers.discard(follower)
            if not hub.followers:
                if self._hubs.get(key) is hub:
                    del self._hubs[key]
                await hub.close()


class _Hub:
    """
    Holds bytes `_base` to `_end` of one command's log.

    The stream begins where the first follower is, or where the log does.
    """

    def __init__(self, node: Node, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> None:
        self.followers: set[_Follower] = set()
        self._node = node
        self._sandbox_id = sandbox_id
        self._exec_id = exec_id
        self._buffer = bytearray()
        self._base = self._end = offset
        self._started: ExecStarted | None = None
        self._exited: ExecExited | None = None
        self._failure: TerpError | None = None
        self._changed = asyncio.Event()  # a new one each time, for all who wait
        self._wanted = asyncio.Event()
        self._pages: dict[int, bytes] = {}
        self._reads: dict[int, asyncio.Task[LogPage]] = {}
        self._reading = asyncio.Semaphore(_READS)
        self._last: ExecOutput | None = None
        self._pulling = asyncio.create_task(self._pull(), name=f"tail of {exec_id}")

    @property
    def failed(self) -> bool:
        return self._failure is not None

    async def started(self, follower: _Follower) -> ExecStarted:
        """Wait until the command is known to be there, with what *follower* wants to begin at. Raises as `follow`."""
        while self._started is None:
            if self._failure is not None:
                raise _again(self._failure)
            await self._changed.wait()
        if follower.position < self._base:
            await self._page(follower.position)
        return self._started

    async def next(self, follower: _Follower) -> ExecOutput | None:
        """Return what comes next for *follower*; None when the command has ended and that was all."""
        misses = 0
        while True:
            if follower.position < self._base:
                data = (await self._page(follower.position))[:PIECE_BYTES]
                if data:
                    return self._given(follower, ExecOutput(OutputStream.STDOUT, data, follower.position))
                misses += 1
                if misses >= _MISSES:
                    raise GuestFault("The guest's log is shorter than it was", context={"offset": follower.position})
            elif follower.position < self._end:
                return self._given(follower, self._piece(follower.position))
            elif self._failure is not None:
                raise _again(self._failure)
            elif self._exited is not None:
                return None
            else:
                self._wanted.set()
                await self._changed.wait()

    def exited_of(self) -> ExecExited:
        """How the command ended, once `next` has said that it did."""
        assert self._exited is not None
        return self._exited

    async def close(self) -> None:
        tasks = [self._pulling, *self._reads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what it holds

    def _piece(self, position: int) -> ExecOutput:
        """From *position* to the next multiple of the piece's size: who are together are given the same object."""
        end = min((position // PIECE_BYTES + 1) * PIECE_BYTES, self._end)
        last = self._last
        if last is None or last.offset != position or len(last.data) != end - position:
            data = bytes(memoryview(self._buffer)[position - self._base : end - self._base])
            last = self._last = ExecOutput(OutputStream.STDOUT, data, position)
        return last

    def _given(self, follower: _Follower, output: ExecOutput) -> ExecOutput:
        follower.position += len(output.data)
        if follower.position + AHEAD_BYTES >= self._end:
            self._wanted.set()
        return output

    async def _page(self, position: int) -> bytes:
        """Return bytes of the guest's log from *position* on, to the end of its page; perhaps none."""
        start = position // PAGE_BYTES * PAGE_BYTES
        kept = self._pages.get(start)
        if kept is not None:
            return kept[position - start :]
        reading = self._reads.get(start)
        if reading is None:
            reading = self._reads[start] = asyncio.create_task(self._read(start))
        try:
            page = await asyncio.shield(reading)
        except TerpError as error:
            raise _again(error) from None
        if page.offset > position:
            raise dropped(page)
        return page.data[position - page.offset :]

    async def _read(self, start: int) -> LogPage:
        try:
            async with self._reading:
                page = await self._node.read_log(self._sandbox_id, self._exec_id, start, PAGE_BYTES)
        finally:
            del self._reads[start]
        if page.offset == start and len(page.data) == PAGE_BYTES:
            self._pages[start] = page.data
            if len(self._pages) > _PAGES:
                del self._pages[next(iter(self._pages))]
        return page

    # ---- what comes

    async def _pull(self) -> None:
        try:
            # Where it begins, and whether there is such a log at all: a command that is quiet would not tell.
            page = await self._node.read_log(self._sandbox_id, self._exec_id, self._base, 1)
            self._base = self._end = min(page.offset, page.size)
            events = self._node.attach(self._sandbox_id, self._exec_id, self._base)
            try:
                async for event in events:
                    self._take(event)
                    while self._is_ahead():
                        self._wanted.clear()
                        await self._wanted.wait()
                if self._exited is None:
                    self._fail(GuestFault("The guest stopped reporting on the command"))
            finally:
                await close(events)
        except TerpError as error:
            self._fail(error)
        except Exception:  # noqa: BLE001 - a bug: whoever follows must not wait for ever
            _log.exception("tail_died", command_id=self._exec_id)
            self._fail(Internal("The server has failed at following the command; its log says more"))

    def _take(self, event: ExecEvent) -> None:
        if isinstance(event, ExecStarted):
            self._started = event
        elif isinstance(event, ExecExited):
            self._exited = event
        else:
            if event.offset != self._end:  # the log has dropped what was to come; who needs that will be told
                self._buffer.clear()
                self._base = self._end = event.offset
            self._buffer += event.data
            self._end += len(event.data)
            if (surplus := len(self._buffer) - BUFFER_BYTES) > 0:
                del self._buffer[:surplus]
                self._base += surplus
        self._notify()

    def _is_ahead(self) -> bool:
        furthest = max((follower.position for follower in self.followers), default=self._end)
        return furthest + AHEAD_BYTES < self._end

    def _fail(self, error: TerpError) -> None:
        self._failure = error
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def dropped(page: LogPage) -> LogDropped:
    """The error for who asked for what is before *page*."""
    return LogDropped(
        f"Output before byte {page.first_offset} is not kept any more; read from there",
        fields={"first_offset": page.first_offset},
    )


def _again(error: TerpError) -> TerpError:
    """The same for one of several followers, each of whom adds to it where he is."""
    kind = GuestFault if isinstance(error, GuestFault) else type(error)
    return kind(error.detail, context=error.context, fields=error.fields, retry_after_s=error.retry_after_s)
