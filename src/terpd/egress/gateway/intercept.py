"""
Requests to the hosts of a credential: the guest's TLS ends here, the real value is put in, and the request goes on
over verified TLS of our own.

    guest ── TLS, the sandbox's CA ── intercept ── TLS, verified ── the host that SNI, Host and the dialled address name

One connection to the server for one of the guest, so that a client sees what it would see without us: what is closed
there is closed here. Each message is parsed and written anew. The value goes into the named header and nowhere else;
from what comes back it is taken out where it stands as it is, in headers and in bodies that are not compressed (which
we ask for). A server that tells it in another form, or in what follows an upgrade, cannot be kept from it: a credential
is for hosts that do not repeat it. Nothing here is logged.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import h11

from terpd.egress.authority import certificate_for
from terpd.egress.base import Authority
from terpd.egress.gateway import http
from terpd.egress.gateway.intercept_exchange import Exchange
from terpd.egress.gateway.intercept_messages import Over, Refused, asks_for_websocket, end_to_end, malformed, receive
from terpd.egress.gateway.intercept_secrets import Filled, Secrets, TooManyPlaces
from terpd.egress.gateway.intercept_tls import TlsStream
from terpd.egress.gateway.tls import Malformed
from terpd.model.network import Credential, Reason

_HANDSHAKE_S = 15.0  # each of both
_HEAD_S = 15.0  # from the first byte of a head to its last; and to the first request
_IDLE_S = 300.0  # between requests
_ANSWER_S = 5.0  # for a guest to take an answer of ours
_DISTRUST = ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE")  # alerts of a client that does not know our CA


@dataclass(slots=True)
class Intercepted:
    """
    Attributes:
        bytes_out, bytes_in: From and to the sandbox, with TLS, as they stand now.
        credential: Name of the first that was put in.
        reason: Why it did not end as it should; None when it did, or when one side just went away.
    """

    bytes_out: int = 0
    bytes_in: int = 0
    credential: str | None = None
    reason: Reason | None = None


async def intercept(
    guest: socket.socket,
    head: bytes,
    name: str,
    credentials: Sequence[Credential],
    authority: Authority,
    dial: Callable[[], Awaitable[socket.socket]],
    *,
    trust: ssl.SSLContext,
    progress: Intercepted | None = None,
) -> Intercepted:
    """
    Serve one TLS connection of a guest to its end.

    Args:
        guest: Non-blocking, and the caller's to close; an answer that was cut off ends without TLS's goodbye.
        head: What was read from it, from the first byte of the ClientHello on.
        name: The SNI, lower case; every request must be for this host.
        credentials: Those that are not for this host are ignored.
        dial: Makes the connection to the host, once and not before a first good request. Non-blocking; closed here.
        trust: Verifies the server, and its name; offers no ALPN but http/1.1.
        progress: Is updated while it goes on, so that it also holds when this is cancelled or raises; returned.

    Raises:
        ValueError: A credential cannot be put in a header, or *trust* does not verify.
        Exception: What *dial* raised; the guest was answered 502.
    """
    if trust.verify_mode is not ssl.CERT_REQUIRED or not trust.check_hostname:
        raise ValueError("the server of a credential has to be verified, with its name")
    done = progress if progress is not None else Intercepted()
    session = _Session(name, Secrets(credentials, name), dial, trust, done)
    try:
        await session.run(guest, certificate_for(authority, name), head)
    except _NotDialled as failed:
        raise failed.error from None
    return done


class _NotDialled(Exception):
    """Apart from the errors of this connection, which it may resemble."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Session:
    def __init__(
        self,
        name: str,
        secrets: Secrets,
        dial: Callable[[], Awaitable[socket.socket]],
        trust: ssl.SSLContext,
        done: Intercepted,
    ) -> None:
        self._name = name
        self._secrets = secrets
        self._dial = dial
        self._trust = trust
        self._done = done
        self._guest: TlsStream
        self._server: TlsStream | None = None
        self._socket: socket.socket | None = None
        self._ahead = bytearray()  # of the guest, not yet used

    async def run(self, guest: socket.socket, context: ssl.SSLContext, head: bytes) -> None:
        self._guest = TlsStream(guest, context, ahead=head, count=self._count)
        try:
            if await self._greet():
                await self._serve()
        finally:
            await self._guest.stop()
            if self._server is not None:
                await self._server.stop()
            if self._socket is not None:
                self._socket.close()

    def _count(self, received: int, sent: int) -> None:
        self._done.bytes_out += received
        self._done.bytes_in += sent

    async def _greet(self) -> bool:
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await self._guest.handshake()
        except TimeoutError:
            self._done.reason = Reason.TIMED_OUT
        except ssl.SSLError as error:
            distrusted = any(alert in (error.reason or "") for alert in _DISTRUST)
            self._done.reason = Reason.CERTIFICATE_REFUSED if distrusted else Reason.MALFORMED
        except OSError:
            self._done.reason = Reason.MALFORMED
        else:
            return True
        return False

    async def _serve(self) -> None:
        """Serve requests until one side has enough."""
        within = _HEAD_S
        try:
            while (raw := await self._head(within)) is not None and await self._request(raw):
                within = _IDLE_S
        except Refused as refused:
            await self._refuse(refused)
        except (Over, OSError):  # SSLError is one
            pass
        else:
            await self._guest.goodbye()

    async def _refuse(self, refused: Refused) -> None:
        self._done.reason = refused.reason
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._guest.write(http.refusal(refused.status, str(refused)))
        except OSError:  # TimeoutError is one
            return
        await self._guest.goodbye()

    async def _head(self, within: float) -> bytes | None:
        """Return the next head, which stays in `_ahead` as well; None when there is no more."""
        seen = 0
        try:
            async with asyncio.timeout(_HEAD_S if self._ahead else within) as limit:
                while (end := self._ahead.find(b"\r\n\r\n", max(0, seen - 3))) < 0:
                    seen = len(self._ahead)
                    if seen > http.MAX_HEAD_BYTES:
                        break
                    data = await self._read_idle()
                    if not data:
                        return None
                    if not seen:
                        limit.reschedule(asyncio.get_running_loop().time() + _HEAD_S)
                    self._ahead += data
        except TimeoutError:
            if not self._ahead:
                return None
            raise Refused("408 Request Timeout", "The request took too long to come.", Reason.TIMED_OUT) from None
        if not 0 <= end <= http.MAX_HEAD_BYTES - 4:
            text = f"The head of the request is larger than {http.MAX_HEAD_BYTES} bytes."
            raise Refused("431 Request Header Fields Too Large", text, Reason.MALFORMED)
        return bytes(self._ahead[: end + 4])

    async def _read_idle(self) -> bytes:
        """Read of the guest; nothing if the server ends meanwhile: a client knows what to do when that happens."""
        reads = [asyncio.create_task(stream.read()) for stream in (self._guest, self._server) if stream is not None]
        try:
            await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        return b"" if any(not read.cancelled() for read in reads[1:]) else reads[0].result()

    async def _request(self, raw: bytes) -> bool:
        """Serve one request; False when it was the connection's last."""
        self._check(raw)
        receiving = h11.Connection(h11.SERVER, max_incomplete_event_size=http.MAX_HEAD_BYTES)
        receiving.receive_data(bytes(self._ahead))
        request = receive(receiving)
        if not isinstance(request, h11.Request):
            raise malformed()
        filled = self._fill(request)
        server = self._server or await self._connect()
        exchange = Exchange(self._guest, server, receiving, request, filled)
        try:
            another = await exchange.run()
        except Refused as refused:
            if not exchange.answered:
                raise
            self._done.reason = refused.reason
            raise Over from None
        self._ahead = exchange.ahead
        return another

    def _check(self, raw: bytes) -> None:
        """Raises Refused for what is not plainly a request to this host."""
        try:
            head = http.parse(raw)
        except http.HostMismatch:
            raise _mismatch() from None
        except Malformed:
            if raw.startswith(b"PRI * HTTP/2"):
                text = "Only HTTP/1.1 is spoken here."
                raise Refused("505 HTTP Version Not Supported", text, Reason.PROTOCOL_NOT_ALLOWED) from None
            raise malformed() from None
        if head.method in {b"CONNECT", b"TRACE"} or head.absolute:  # TRACE would send the value back
            text = "CONNECT, TRACE and URLs as targets are not for a server with a credential."
            raise Refused("400 Bad Request", text, Reason.PROTOCOL_NOT_ALLOWED)
        if head.host is None or head.host.lower() != self._name.encode():
            raise _mismatch()

    def _fill(self, request: h11.Request) -> Filled:
        try:
            filled = self._secrets.request(end_to_end(request, upgrade=asks_for_websocket(request)))
        except TooManyPlaces:
            text = "The placeholder of a credential stands in too many places of this request."
            raise Refused("400 Bad Request", text, Reason.MALFORMED) from None
        if filled.used and self._done.credential is None:
            self._done.credential = filled.used[0]
        return filled

    async def _connect(self) -> TlsStream:
        try:
            self._socket = await self._dial()
        except Exception as error:
            text = f"The sandbox's gateway could not reach {self._name}."
            await self._refuse(Refused("502 Bad Gateway", text, Reason.UNREACHABLE))
            raise _NotDialled(error) from error
        server = TlsStream(self._socket, self._trust, server_name=self._name)
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await server.handshake()
        except TimeoutError:
            text = f"{self._name} did not answer to TLS in time."
            raise Refused("504 Gateway Timeout", text, Reason.TIMED_OUT) from None
        except ssl.SSLCertVerificationError as error:
            text = f"The sandbox's gateway does not trust the certificate of {self._name}: {error.verify_message}."
            raise Refused("502 Bad Gateway", text, Reason.SERVER_UNVERIFIED) from None
        except OSError:
            text = f"The sandbox's gateway and {self._name} could not agree on TLS."
            raise Refused("502 Bad Gateway", text, Reason.UNREACHABLE) from None
        self._server = server
        return server


def _mismatch() -> Refused:
    text = "The request is for another host than its connection."
    return Refused("421 Misdirected Request", text, Reason.NAME_MISMATCH)
