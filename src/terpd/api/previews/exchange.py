"""
One request to a port of a guest, and its answer, at the slower one's pace.

    visitor ─ receive ─► _upload ─► guest          each piece waits until the one before it was taken
    visitor ◄─ send ─── _answer ◄── guest

Everything from the guest is read as HTTP/1.1 by h11, strictly, and written anew, so that no answer can hold another
one. After 101 it is bytes both ways: frames, pings and close codes are between the visitor and the guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Protocol

import h11
from starlette.types import Receive, Send

from terpd.api.drip import cancel_and_wait
from terpd.api.previews.request import end_to_end
from terpd.model.errors import DeadlineExceeded, GuestFault

MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 60.0  # from the request's last byte to the end of the answer's head
IDLE_S = 300.0  # without a byte in either direction
_PIECE_BYTES = 64 * 1024
_MAX_STATUS = 599  # uvicorn knows no others

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Upgrade(Protocol):
    """A visitor's connection that can become one of another protocol."""

    def accept(self, fields: Sequence[tuple[bytes, bytes]]) -> Streams:
        """Answer 101 with *fields* and hand the connection over; it is closed by whoever owns it."""


class Exchange:
    """
    Args:
        upgrade: For a request that asks for WebSocket; the guest may agree.
    """

    def __init__(self, request: h11.Request, receive: Receive, send: Send, upgrade: Upgrade | None) -> None:
        self._request = request
        self._receive = receive
        self._send = send
        self._upgrade = upgrade
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._status = 0
        self._gone = False
        self._wait_s = HEAD_S
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._timer: asyncio.Timeout

    async def run(self, connection: socket.socket) -> int:
        """
        Return the answer's status, 499 when the visitor left before. *connection* is closed at the end.

        An answer that breaks off is left incomplete: the server then cuts the visitor's connection.

        Raises:
            GuestFault, DeadlineExceeded: Nothing was answered yet.
        """
        try:
            self._reader, self._writer = await asyncio.open_connection(sock=connection, limit=_PIECE_BYTES)
        except BaseException:
            connection.close()
            raise
        upload: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(HEAD_S) as self._timer:
                self._writer.write(self._http.send(self._request) or b"")
                upload = asyncio.create_task(self._upload())
                await self._answer()
        except TimeoutError as error:
            if not self._status:
                raise DeadlineExceeded("The sandbox's server gave no answer in time") from error
        except (h11.RemoteProtocolError, OSError) as error:
            if not self._status and not self._gone:
                raise GuestFault("The sandbox's server gave no answer that is HTTP/1.1") from error
        finally:
            if upload is not None:
                await cancel_and_wait(upload)
            if self._writer.transport.get_write_buffer_size():
                self._writer.transport.abort()  # it would be kept for as long as the guest does not read
            else:
                self._writer.close()
        return self._status or 499

    def _progress(self) -> None:
        self._timer.reschedule(asyncio.get_running_loop().time() + self._wait_s)

    async def _upload(self) -> None:
        with contextlib.suppress(OSError):  # it closes without reading all; its answer says why
            while (message := await self._receive())["type"] == "http.request":
                if piece := message.get("body", b""):
                    self._writer.write(self._http.send(h11.Data(piece)) or b"")
                if not message.get("more_body", False):
                    self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
                await self._writer.drain()
                self._progress()
                if not message.get("more_body", False):
                    break
            else:
                self._leave()
                return
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        """Nobody is there any more: whoever reads from the guest then finds its end."""
        self._gone = True
        self._writer.transport.abort()

    async def _answer(self) -> None:
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            if head.status_code == 101 and self._upgrade is not None:
                await self._relay(self._upgrade, head)
                return
            head = await self._event()
        if not isinstance(head, h11.Response) or head.status_code > _MAX_STATUS:
            raise h11.RemoteProtocolError("no answer")
        self._status = head.status_code
        self._wait_s = IDLE_S
        await self._send({"type": "http.response.start", "status": head.status_code, "headers": _for_visitor(head)})
        self._progress()
        while isinstance(event := await self._event(), h11.Data):
            await self._send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
            self._progress()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _event(self) -> h11.Event:
        """Return the guest's next event; EndOfMessage is the last one that is asked for."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_PIECE_BYTES))
            elif isinstance(event, h11.Event):
                return event
            else:
                raise h11.RemoteProtocolError("another protocol")

    async def _relay(self, upgrade: Upgrade, head: h11.InformationalResponse) -> None:
        self._status = 101
        self._wait_s = IDLE_S
        self._progress()
        passed = end_to_end(list(head.headers))
        reader, writer = upgrade.accept([*passed, (b"connection", b"Upgrade"), (b"upgrade", b"websocket")])
        writer.write(self._http.trailing_data[0])
        ways = [
            asyncio.create_task(self._pump(self._reader, writer)),
            asyncio.create_task(self._pump(reader, self._writer)),
        ]
        try:
            # The end of one way is the end of both: WebSocket has no half that stays.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                await cancel_and_wait(way)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
                self._progress()


def _for_visitor(head: h11.Response) -> list[tuple[bytes, bytes]]:
    """Return the answer's headers without those that our server writes itself."""
    dropped = {b"date"}
    if head.status_code in (204, 304):
        dropped.add(b"content-length")  # of a body that does not come
    return [(name, value) for name, value in end_to_end(list(head.headers)) if name not in dropped]
