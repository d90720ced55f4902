"""What a guest wants, from the first bytes that it sends."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from terpd.egress.gateway import http
from terpd.egress.gateway.http import MAX_HEAD_BYTES, Head, HostMismatch
from terpd.egress.gateway.tls import HANDSHAKE, HelloReader, Malformed
from terpd.model.network import Protocol, Reason

_RECEIVE_BYTES = 16 * 1024
_END = b"\r\n\r\n"
_MAX_LINE_BYTES = 16 * 1024


@dataclass(slots=True)
class Sniffed:
    """
    Attributes:
        data: All that was read.
        name: As sent: of the TLS hello, or the host of the request.
        head, rest: The head of a request, and what was read after it.
        fault: What is wrong with it; then `protocol` is what it set out to be.
    """

    protocol: Protocol
    data: bytes
    name: bytes | None = None
    head: Head | None = None
    rest: bytes = b""
    fault: Reason | None = None


async def sniff(  # noqa: PLR0911  each way to find out
    guest: socket.socket, begun: bytes = b"", *, timeout_s: float, silence_s: float | None
) -> Sniffed:
    """
    Read until it is clear what the guest wants.

    Args:
        begun: What was read before.
        silence_s: After so long without a byte it is taken for a protocol in which the server speaks first.

    Raises:
        OSError: The connection broke.
    """
    data = bytearray(begun)
    reading = _Reading(guest, data)
    try:
        async with asyncio.timeout(timeout_s):
            if not data:
                try:
                    async with asyncio.timeout(silence_s):
                        await reading.more()
                except TimeoutError:
                    return Sniffed(Protocol.TCP, b"")
            if data[:1] == bytes((HANDSHAKE,)):
                return await _tls(reading)
            return await _http(reading)
    except TimeoutError:
        return Sniffed(_guess(data), bytes(data), fault=Reason.TIMED_OUT)
    except HostMismatch:
        return Sniffed(Protocol.HTTP, bytes(data), fault=Reason.NAME_MISMATCH)
    except Malformed:
        return Sniffed(_guess(data), bytes(data), fault=Reason.MALFORMED)
    except EOFError:
        return Sniffed(Protocol.TCP, bytes(data))


class _Reading:
    def __init__(self, guest: socket.socket, data: bytearray) -> None:
        self._guest = guest
        self._loop = asyncio.get_running_loop()
        self.data = data

    async def more(self) -> bytes:
        """Raises EOFError at the end."""
        received = await self._loop.sock_recv(self._guest, _RECEIVE_BYTES)
        if not received:
            raise EOFError
        self.data += received
        return received


def _guess(data: bytearray) -> Protocol:
    if data[:1] == bytes((HANDSHAKE,)):
        return Protocol.TLS
    return Protocol.HTTP if data else Protocol.TCP


async def _tls(reading: _Reading) -> Sniffed:
    hello = HelloReader()
    complete = hello.feed(bytes(reading.data))
    while not complete:
        complete = hello.feed(await reading.more())
    return Sniffed(Protocol.TLS, bytes(reading.data), hello.name)


async def _http(reading: _Reading) -> Sniffed:
    data = reading.data
    while (line := data.find(b"\n")) < 0:
        if not http.plausible(bytes(data[:64])):
            return Sniffed(Protocol.TCP, bytes(data))
        if len(data) > _MAX_LINE_BYTES:
            raise Malformed("a long request line")
        await reading.more()
    if not http.plausible(bytes(data[:64])) or b" HTTP/1." not in data[:line]:
        return Sniffed(Protocol.TCP, bytes(data))
    searched = 0
    while (end := data.find(_END, max(0, searched - len(_END)))) < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise Malformed("a long head")
        searched = len(data)
        await reading.more()
    head = http.parse(bytes(data[: end + len(_END)]))
    return Sniffed(Protocol.HTTP, bytes(data), head.host, head, bytes(data[end + len(_END) :]))
