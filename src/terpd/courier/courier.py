"""
The Courier port: one POST, to the very address that was checked, and of the answer its status.

Whoever names the address is not trusted, and neither is who answers there. A redirect is an answer like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from weakref import WeakValueDictionary

import h11

from terpd.courier.target import Target, parse
from terpd.egress.gateway.dial import Dialer, DialFailed
from terpd.egress.upstream import Upstream
from terpd.model.errors import InvalidRequest
from terpd.model.network import Reason
from terpd.model.ports import Posted

TIMEOUT_S = 10.0  # from the first look-up to the end of the answer's head
MAX_ANSWER_BYTES = 16 * 1024
_BODY_S = 1.0  # for the answer's body, of which nothing is kept: who is cut off would log an error
_LOOKUPS = 2  # of one name at a time: slow ones are not to take all threads
_CHUNK_BYTES = 4096

_WHY = {
    Reason.NAME_UNRESOLVED: "The host's name has no address",
    Reason.ADDRESS_FORBIDDEN: "The host has no public address",
    Reason.UNREACHABLE: "The host cannot be reached",
    Reason.TIMED_OUT: "The host cannot be reached: it took too long",
}


_FAULTS = (InvalidRequest, DialFailed, OSError, h11.ProtocolError)  # TimeoutError and SSLError are OSErrors


class PublicCourier:
    """
    Args:
        upstream: The proxy to go through, if there is one, the resolvers, and exceptions from the rule that addresses
            are public.
        trust: Verifies servers; by default by the authorities of this host.
        anywhere: Private addresses, and this host's own, may be posted to as well.
    """

    def __init__(self, upstream: Upstream, *, trust: ssl.SSLContext | None = None, anywhere: bool = False) -> None:
        self._dialer = Dialer(upstream, anywhere=anywhere)
        self._trust = trust or ssl.create_default_context()
        self._lookups: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        self._dialer.close()

    async def check(self, url: str) -> None:
        target = parse(url)
        try:
            await self._dialer.check(target.host, self._lookups_of(target))
        except DialFailed as failed:
            raise InvalidRequest(f"url cannot be used: {_WHY[failed.reason]}") from failed

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return Posted(await self._post(parse(url), body, headers))
        except _FAULTS as error:
            return Posted(error=_said(error))

    async def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> int:
        connected, _ = await self._dialer.dial(target.host, target.port, self._lookups_of(target))
        try:
            secure = target.scheme == "https"
            reader, writer = await asyncio.open_connection(
                sock=connected,
                limit=MAX_ANSWER_BYTES,
                ssl=self._trust if secure else None,
                server_hostname=str(target.host) if secure else None,
                ssl_shutdown_timeout=_BODY_S if secure else None,
            )
        except BaseException:
            connected.close()
            raise
        try:
            talk = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_BYTES)
            writer.write(_request(talk, target, body, headers))
            status = await _status(talk, reader)
            with contextlib.suppress(OSError, h11.ProtocolError):  # a TimeoutError is an OSError
                async with asyncio.timeout(_BODY_S):
                    await _discard(talk, reader)
        except BaseException:
            writer.transport.abort()
            raise
        if writer.transport.get_write_buffer_size():
            writer.transport.abort()  # answered before it was asked; nobody waits until it takes the rest
        else:
            writer.close()
        return status

    def _lookups_of(self, target: Target) -> asyncio.Semaphore:
        name = str(target.host)
        lookups = self._lookups.get(name)
        if lookups is None:
            lookups = self._lookups[name] = asyncio.Semaphore(_LOOKUPS)
        return lookups


def _said(error: Exception) -> str:
    """What went wrong, for the webhook's owner: no address, and nothing of what was answered."""
    match error:
        case InvalidRequest():
            return error.detail
        case DialFailed():
            return _WHY[error.reason]
        case TimeoutError():
            return f"The host did not answer within {TIMEOUT_S:.0f} s"
        case ssl.SSLCertVerificationError():
            return f"The host's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return "The host does not speak TLS as it should"
        case _:
            return "The host hung up, or does not speak HTTP/1.1"


def _request(talk: h11.Connection, target: Target, body: bytes, headers: Mapping[str, str]) -> bytes:
    head = {
        "Host": target.authority,
        "User-Agent": "Terp-Webhooks/1",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    events: list[h11.Event] = [
        h11.Request(method="POST", target=target.path, headers=list(head.items())),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    return b"".join(talk.send(event) or b"" for event in events)


async def _status(talk: h11.Connection, reader: asyncio.StreamReader) -> int:
    """Raises OSError, h11.RemoteProtocolError."""
    received = 0
    while True:
        event = talk.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is not h11.NEED_DATA:
            continue  # 1xx
        data = await reader.read(_CHUNK_BYTES)
        received += len(data)
        if not data or received > MAX_ANSWER_BYTES:
            raise ConnectionError("no answer, or one without end")
        talk.receive_data(data)


async def _discard(talk: h11.Connection, reader: asyncio.StreamReader) -> None:
    left = MAX_ANSWER_BYTES
    while left > 0:
        event = talk.next_event()
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return
        if event is h11.NEED_DATA:
            data = await reader.read(_CHUNK_BYTES)
            left -= len(data)
            talk.receive_data(data)
