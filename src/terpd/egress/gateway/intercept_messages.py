"""HTTP/1.1 messages on their way through: what is taken out of their heads, and errors that quote nothing of them."""

from __future__ import annotations

from collections.abc import Iterable

import h11

from terpd.egress.gateway.intercept_secrets import Echo
from terpd.model.network import Reason

Fields = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1. Framing is made anew on each side, and trailers are dropped.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer", b"upgrade")
)
_KEPT = frozenset((b"host", b"content-length", b"transfer-encoding"))  # whatever Connection says


class Refused(Exception):
    """The guest is to be answered *status* and *text*, which quote nothing, and the connection to end."""

    def __init__(self, status: str, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


class Over(Exception):
    """The guest or the server went away in the middle of an exchange: nothing more can be said."""


def malformed() -> Refused:
    return Refused("400 Bad Request", "This is no valid HTTP/1.1 request.", Reason.MALFORMED)


def receive(connection: h11.Connection) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
    """Raises Refused, in the place of an error of h11's: those quote lines."""
    try:
        return connection.next_event()
    except h11.RemoteProtocolError:
        raise malformed() from None


def send(connection: h11.Connection, event: h11.Event) -> bytes:
    """Raises Over, in the place of an error of h11's: those quote header values."""
    try:
        return connection.send(event) or b""
    except h11.LocalProtocolError:
        raise Over from None


def end_to_end(event: h11.Request | h11.Response | h11.InformationalResponse, *, upgrade: bool) -> Fields:
    """
    Return the fields that are for the other end, too.

    Args:
        upgrade: Keep that it is about a WebSocket.
    """
    named = {token.strip().lower() for value in values(event, b"connection") for token in value.split(b",")}
    dropped = (_HOP_BY_HOP | named) - _KEPT
    fields = [(name, value) for name, value in event.headers.raw_items() if name.lower() not in dropped]
    if upgrade:
        fields += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return fields


def asks_for_websocket(request: h11.Request) -> bool:
    """Other protocols are not spoken here; servers go on in HTTP/1.1 without."""
    return [value.lower() for value in values(request, b"upgrade")] == [b"websocket"]


def uncompressed(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Ask for an answer in which a value can be found."""
    return [*(field for field in fields if field[0].lower() != b"accept-encoding"), (b"Accept-Encoding", b"identity")]


def answer(event: h11.Response, echo: Echo) -> h11.Response:
    """A response's head as the guest gets it."""
    chunked = bool(values(event, b"transfer-encoding"))  # then a Content-Length says nothing
    fields = [
        (name, echo.header(value))
        for name, value in end_to_end(event, upgrade=False)
        if not (chunked and name.lower() == b"content-length")
    ]
    if event.http_version < b"1.1" or any(b"close" in value.lower() for value in values(event, b"connection")):
        fields.append((b"Connection", b"close"))
    return h11.Response(status_code=event.status_code, headers=fields, reason=echo.header(event.reason))


def values(event: h11.Request | h11.Response | h11.InformationalResponse, name: bytes) -> list[bytes]:
    """*name* in lower case."""
    return [value for known, value in event.headers if known == name]
