"""
One request and its answer, both passed on as they come: the slower side sets the pace.

    guest  ── upload: its body, then a watch on whether it goes away ──▶  server
    guest  ◀── download: the answer, without the values of credentials ──  server

When the answer is complete the exchange is over, even if the body is not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11

from terpd.egress.gateway import http
from terpd.egress.gateway.intercept_messages import (
    Over,
    Refused,
    answer,
    end_to_end,
    receive,
    send,
    uncompressed,
    values,
)
from terpd.egress.gateway.intercept_secrets import Echo, Filled
from terpd.egress.gateway.intercept_tls import TlsStream
from terpd.model.network import Reason

_MAX_AHEAD_BYTES = 64 * 1024  # of what a guest sends before it has its answer
_SILENT_S = 900.0  # models think for long; as long as any other connection may be idle
_LEAST_HELD_BYTES = 8  # in bodies without a length, where the reader may wait for each piece


class Exchange:
    """
    Args:
        receiving: The guest's side, which has told of *request*.
        filled: The request's fields for the server.

    Attributes:
        answered: The answer's head was sent, so nothing else can be said.
        ahead: What the guest sent after this request.
    """

    def __init__(
        self, guest: TlsStream, server: TlsStream, receiving: h11.Connection, request: h11.Request, filled: Filled
    ) -> None:
        self.answered = False
        self.ahead = bytearray()
        self._guest, self._server = guest, server
        self._receiving = receiving
        self._sending = h11.Connection(h11.CLIENT, max_incomplete_event_size=http.MAX_HEAD_BYTES)
        self._request, self._filled = request, filled
        self._uploaded = False

    async def run(self) -> bool:
        """
        Return whether another request can follow on these connections.

        Raises:
            Refused: The rest of the request, or the answer, is malformed.
            Over, SSLError, OSError: One side is gone.
        """
        fields = uncompressed(self._filled.fields) if self._filled.used else self._filled.fields
        request = h11.Request(method=self._request.method, target=self._request.target, headers=fields)
        await self._server.write(send(self._sending, request))
        upload, download = asyncio.create_task(self._upload()), asyncio.create_task(self._download())
        try:
            await self._first(upload, download)
            if not download.done():
                upload.result()  # raises when the guest went away; else the server no longer listens, but may answer
                await self._first(download)
            switched = download.result()
        finally:
            upload.cancel()
            download.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)
        if switched:
            await self._tunnel()
            return False
        states = (self._receiving.our_state, self._receiving.their_state, self._sending.their_state)
        return self._uploaded and all(state is h11.DONE for state in states) and not self._sending.trailing_data[0]

    async def _first(self, *tasks: asyncio.Task[Any]) -> None:
        """Wait until one of them is done. Raises Refused when no byte moves for long, on neither side."""
        moved = -1
        while not (await asyncio.wait(tasks, timeout=_SILENT_S, return_when=asyncio.FIRST_COMPLETED))[0]:
            before, moved = moved, self._guest.moved + self._server.moved
            if moved == before:
                raise Refused("504 Gateway Timeout", "Nothing was sent for too long.", Reason.TIMED_OUT)

    async def _upload(self) -> None:
        """Raises Over when the guest goes away. Returns when nothing more is to be read of it."""
        while not isinstance(event := receive(self._receiving), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                if not await self._to_server(event):
                    return
            elif data := await self._guest.read():
                self._receiving.receive_data(data)
            else:
                raise Over
        self.ahead += self._receiving.trailing_data[0]
        if not await self._to_server(h11.EndOfMessage()):
            return
        self._uploaded = True
        while len(self.ahead) < _MAX_AHEAD_BYTES:
            data = await self._guest.read()
            if not data:
                raise Over
            self.ahead += data

    async def _to_server(self, event: h11.Event) -> bool:
        """False when the server does not take more: it may have answered before."""
        try:
            await self._server.write(send(self._sending, event))
        except OSError:
            return False
        return True

    async def _download(self) -> bool:
        """Return whether both switched to another protocol."""
        echo = self._filled.echo(least=_LEAST_HELD_BYTES)
        clear, ended = True, False
        while True:
            try:
                event = self._sending.next_event()
            except h11.RemoteProtocolError:
                if ended:
                    raise Over from None
                text = "What the server answered is no valid HTTP/1.1."
                raise Refused("502 Bad Gateway", text, Reason.MALFORMED) from None
            if event is h11.NEED_DATA:
                data = await self._server.read()
                ended = not data
                self._sending.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                if await self._interim(event, echo):
                    return True
            elif isinstance(event, h11.Response):
                echo = self._filled.echo(least=1 if values(event, b"content-length") else _LEAST_HELD_BYTES)
                clear = all(coding.lower() == b"identity" for coding in values(event, b"content-encoding"))
                self.answered = True
                await self._to_guest(answer(event, echo))
            elif isinstance(event, h11.Data):
                data = bytes(event.data)
                await self._to_guest(h11.Data(data=echo.body(data) if clear else data))
            elif isinstance(event, h11.EndOfMessage):
                await self._to_guest(h11.Data(data=echo.rest()))
                await self._to_guest(h11.EndOfMessage())
                return False
            else:  # it closed without an answer, as clients know it from servers
                raise Over

    async def _to_guest(self, event: h11.Event) -> None:
        if data := send(self._receiving, event):
            await self._guest.write(data)

    async def _interim(self, event: h11.InformationalResponse, echo: Echo) -> bool:
        """Pass on 100 (Continue), 103 (Early Hints) and the like; True for 101 (Switching Protocols)."""
        switches = event.status_code == 101
        if self._receiving.their_http_version == b"1.0":
            return False  # does not know these
        fields = [(name, echo.header(value)) for name, value in end_to_end(event, upgrade=switches)]
        self.answered = self.answered or switches
        await self._to_guest(h11.InformationalResponse(status_code=event.status_code, headers=fields))
        return switches

    async def _tunnel(self) -> None:
        """Bytes both ways, as they are, until one side ends."""
        pumps = (
            asyncio.create_task(_pump(bytes(self.ahead), self._guest, self._server)),
            asyncio.create_task(_pump(self._sending.trailing_data[0], self._server, self._guest)),
        )
        try:
            await self._first(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(early: bytes, source: TlsStream, target: TlsStream) -> None:
    data = early or await source.read()
    while data:
        await target.write(data)
        data = await source.read()
