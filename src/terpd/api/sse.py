"""
Server-sent events, those of commands among them: each frame one line of ASCII JSON, read by clients line by line.

Frames follow the client's pace: nothing is asked of the guest while a frame waits to be sent, which in the end holds
the command back. A client that leaves detaches; the command runs on until its own timeout, and can be attached to.

The `offset` of a chunk and its length say where to attach to go on behind it. What begins a character and is not
sent yet lies behind that as well, unless the other stream's output came in between: then those 3 bytes at most are
not sent again.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from terpd.api.drip import cancel_and_wait, tellable, until_disconnected
from terpd.api.pace import Pace
from terpd.api.utf8 import Utf8Cutter
from terpd.control.exec import RunningExec
from terpd.control.outcome import failure_of
from terpd.model.errors import TerpError
from terpd.model.guest import ExecEvent, ExecExited, ExecOutput, ExecStarted, OutputStream
from terpd.model.ids import ExecId

_T = TypeVar("_T")
_E = TypeVar("_E")
_E_contra = TypeVar("_E_contra", contravariant=True)
_END = object()

KEEPALIVE = b": ka\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect frames otherwise
]


class ExecFrames:
    """Turns events into frames; with *whole_characters* keeps what is left of one until the rest comes."""

    def __init__(self, exec_id: ExecId | None = None, *, whole_characters: bool = True) -> None:
        self.exec_id = exec_id  # known before the first event is
        self._whole_characters = whole_characters
        self._cutters = {stream: Utf8Cutter() for stream in OutputStream}
        self._ends = dict.fromkeys(OutputStream, 0)  # of what was fed, among both streams' bytes

    def of(self, event: ExecEvent) -> Iterator[bytes]:
        if isinstance(event, ExecOutput):
            self._ends[event.stream] = event.offset + len(event.data)
            whole = self._cutters[event.stream].feed(event.data) if self._whole_characters else event.data
            yield from self._chunk(event.stream, whole)
        elif isinstance(event, ExecStarted):
            yield frame({"kind": "exec_started", "pid": event.pid, "command_id": self.exec_id})
        else:
            for stream, cutter in self._cutters.items():
                yield from self._chunk(stream, cutter.flush())
            yield self._end(event)

    def broken(self, error: TerpError) -> bytes:
        """The last frame of a command that goes on without us; `offset` says where to attach again."""
        offset = error.fields.get("offset")
        if isinstance(offset, int):
            unsent = (cutter.held_bytes for stream, cutter in self._cutters.items() if self._ends[stream] == offset)
            error.fields["offset"] = offset - max(unsent, default=0)
        return error_frame(error)

    def _end(self, exited: ExecExited) -> bytes:
        failure = failure_of(exited)
        if failure is None:
            return frame({"kind": "exec_exited", "code": exited.exit_code, "duration_ms": exited.duration_ms})
        return error_frame(failure)

    def _chunk(self, stream: OutputStream, data: bytes) -> Iterator[bytes]:
        if data:
            # Counted from its end: a character that was completed just now may have begun before the other stream's
            # last bytes, and whoever attaches behind this chunk must not be sent them again.
            offset = self._ends[stream] - self._cutters[stream].held_bytes - len(data)
            # Base64 needs no escaping: putting it between constants spares the JSON encoder large strings.
            head = b'data: {"kind":"exec_chunk","stream":"%s","offset":%d,"data":"' % (stream.value.encode(), offset)
            yield head + base64.b64encode(data) + b'"}\n\n'


def frame(content: Mapping[str, object]) -> bytes:
    # ASCII only: clients split lines at U+2028 and its like as well.
    return b"data: " + json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n\n"


def error_frame(error: TerpError) -> bytes:
    return frame({**error.fields, "kind": "error", "code": error.code, "message": error.detail})


class Frames(Protocol[_E_contra]):
    """Turns the events of one stream into its frames."""

    def of(self, event: _E_contra) -> Iterable[bytes]: ...

    def broken(self, error: TerpError) -> bytes:
        """The last frame of a stream that did not come to its end."""


async def stream_exec(running: Awaitable[RunningExec], pace: Pace, *, whole_characters: bool = True) -> Response:
    """As `stream_events`, of a command; *whole_characters*: no chunk ends within one of UTF-8."""
    frames = ExecFrames(whole_characters=whole_characters)

    async def events() -> AsyncGenerator[ExecEvent, None]:
        execution = await running
        frames.exec_id = execution.id
        return execution.events

    return await stream_events(events(), frames, pace)


async def stream_events(events: Awaitable[AsyncGenerator[_E, None]], frames: Frames[_E], pace: Pace) -> Response:
    """
    Return the response that streams *events* to their end. They are closed when the client leaves.

    What keeps them from beginning has a status of its own, unless it takes longer than `patience_s` (a paused sandbox
    may have to be resumed first): then it is a frame.

    Raises:
        TerpError: They did not begin.
    """
    opening = asyncio.create_task(_open(events))
    try:
        await asyncio.wait({opening}, timeout=pace.patience_s)
    except asyncio.CancelledError:
        opening.cancel()
        raise
    if opening.done():
        opening.result()
    return _EventStream(opening, frames, pace.keepalive_s)


@dataclass(frozen=True, slots=True)
class _Opened(Generic[_E]):
    """Events that are known to come, and the *first* of them, which was taken already."""

    events: AsyncGenerator[_E, None]
    first: _E


async def _open(coming: Awaitable[AsyncGenerator[_E, None]]) -> _Opened[_E]:
    events = await coming
    try:
        return _Opened(events, await anext(events))
    except BaseException:
        await events.aclose()
        raise


class _Gone(Exception):
    """The client has left."""


class _EventStream(Response, Generic[_E]):
    def __init__(self, opening: asyncio.Task[_Opened[_E]], frames: Frames[_E], keepalive_s: float) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._opening = opening
        self._frames = frames
        self._keepalive_s = keepalive_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(until_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                opened = await self._patiently(self._opening, gone, send)
                await _send(send, b"".join(self._frames.of(opened.first)))
                while True:
                    event = await self._patiently(asyncio.create_task(_next(opened.events)), gone, send)
                    if event is _END:
                        break
                    await _send(send, b"".join(self._frames.of(event)))
            except _Gone:
                return
            except Exception as error:  # noqa: BLE001 - the answer has begun: it can only be told in a frame
                await _send(send, self._frames.broken(tellable(error)))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await cancel_and_wait(gone, self._opening)
            if not self._opening.cancelled() and self._opening.exception() is None:
                await self._opening.result().events.aclose()

    async def _patiently(self, task: asyncio.Task[_T], gone: asyncio.Task[None], send: Send) -> _T:
        """Await *task* and keep the stream alive meanwhile. Raises _Gone as soon as the client has left."""
        try:
            while not task.done():
                await asyncio.wait({task, gone}, timeout=self._keepalive_s, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise _Gone
                if not task.done():
                    await _send(send, KEEPALIVE)
            return task.result()
        finally:
            if not task.done():
                await cancel_and_wait(task)


async def _send(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _next(events: AsyncGenerator[_E, None]) -> _E:
    """Raises no StopAsyncIteration, which a task could not: what comes behind the last event is `_END`."""
    return await anext(events, cast("_E", _END))
