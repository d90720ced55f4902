"""
A command's events as server-sent events: each frame one line of ASCII JSON, read by clients line by line.

Frames follow the client's pace: nothing is asked of the guest while a frame waits to be sent, which in the end holds
the command back. A client that leaves detaches; the command runs on until its own timeout.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Iterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from terpd.api.drip import cancel_and_wait, tellable, until_disconnected
from terpd.api.utf8 import Utf8Cutter
from terpd.control.outcome import failure_of
from terpd.model.errors import ExecKilled, TerpError
from terpd.model.guest import ExecEvent, ExecExited, ExecOutput, ExecStarted, OutputStream
from terpd.model.ids import ExecId

KEEPALIVE = b": ka\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect frames otherwise
]


class ExecFrames:
    """Turns events into frames; keeps what is left of a character until the rest comes."""

    def __init__(self, exec_id: ExecId) -> None:
        self._exec_id = exec_id
        self._cutters = {stream: Utf8Cutter() for stream in OutputStream}

    def of(self, event: ExecEvent) -> Iterator[bytes]:
        if isinstance(event, ExecOutput):
            yield from self._chunk(event.stream, self._cutters[event.stream].feed(event.data))
        elif isinstance(event, ExecStarted):
            yield frame({"kind": "exec_started", "pid": event.pid, "command_id": self._exec_id})
        else:
            yield from self.rest()
            yield self._end(event)

    def rest(self) -> Iterator[bytes]:
        for stream, cutter in self._cutters.items():
            yield from self._chunk(stream, cutter.flush())

    def _end(self, exited: ExecExited) -> bytes:
        failure = failure_of(exited)
        if failure is None:
            return frame({"kind": "exec_exited", "code": exited.exit_code, "duration_ms": exited.duration_ms})
        return error_frame(failure)

    @staticmethod
    def _chunk(stream: OutputStream, data: bytes) -> Iterator[bytes]:
        if data:
            # Base64 needs no escaping: putting it between constants spares the JSON encoder large strings.
            head = b'data: {"kind":"exec_chunk","stream":"%s","data":"' % stream.value.encode()
            yield head + base64.b64encode(data) + b'"}\n\n'


def frame(content: Mapping[str, object]) -> bytes:
    # ASCII only: clients split lines at U+2028 and its like as well.
    return b"data: " + json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n\n"


def error_frame(error: TerpError) -> bytes:
    signal = {"signal": error.fields["signal"]} if isinstance(error, ExecKilled) else {}
    return frame({"kind": "error", "code": error.code, "message": error.detail, **signal})


class ExecStream(Response):
    """The response; *first* has been taken from *events* already, so that the command is known to run."""

    def __init__(
        self, exec_id: ExecId, first: ExecEvent, events: AsyncGenerator[ExecEvent, None], keepalive_s: float
    ) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._frames = ExecFrames(exec_id)
        self._first = first
        self._events = events
        self._keepalive_s = keepalive_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(until_disconnected(receive))
        pending: asyncio.Task[ExecEvent] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            event = self._first
            while True:
                body = b"".join(self._frames.of(event))
                if body:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                if isinstance(event, ExecExited):
                    break
                pending = asyncio.create_task(_next(self._events))
                while not pending.done():
                    await asyncio.wait({pending, gone}, timeout=self._keepalive_s, return_when=asyncio.FIRST_COMPLETED)
                    if gone.done():
                        return
                    if not pending.done():
                        await send({"type": "http.response.body", "body": KEEPALIVE, "more_body": True})
                try:
                    event = pending.result()
                except Exception as error:  # noqa: BLE001 - the answer has begun: it can only be told in a frame
                    body = b"".join(self._frames.rest()) + error_frame(tellable(error))
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    break
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await cancel_and_wait(gone, *([] if pending is None else [pending]))
            await self._events.aclose()


async def _next(events: AsyncGenerator[ExecEvent, None]) -> ExecEvent:
    return await anext(events)
