"""
The head of an HTTP/1.1 request (RFC 9112), read strictly: what two parsers could read in two ways is refused.

A request that must stay the only one of its connection is rewritten to say so (`closing`), and no more than its body
is let through after it (`Body`): a second request with another Host never reaches the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from terpd.egress.gateway.tls import Malformed

MAX_HEAD_BYTES = 64 * 1024  # most servers take 8 to 32 KiB
_MAX_LINES = 200
_MAX_CHUNK_LINE_BYTES = 256
_METHOD = re.compile(rb"[A-Z][A-Z0-9_-]{0,31}")
_START = re.compile(rb"[A-Z][A-Z0-9_-]{0,31}(?: |\Z)|\Z")  # what the first bytes of a request look like
_TARGET = re.compile(rb"[\x21-\x7e]+")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\x00-\x20]+)(?::([0-9]{1,5}))?")
_OF_THE_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"upgrade"))


class HostMismatch(Malformed):
    """It names more than one host."""


def plausible(data: bytes) -> bool:
    """Whether *data* is, or could become, the start of a request."""
    return _START.match(data[:33]) is not None


@dataclass(frozen=True, slots=True)
class Head:
    """
    Attributes:
        target: In origin form; for CONNECT as it was.
        host: As sent, without port; None without one.
        port: That was given with the host.
        absolute: The target was a URL, or it is CONNECT: said to a proxy.
        length: Bytes of the body; None when it is chunked.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: Sequence[tuple[bytes, bytes]]
    host: bytes | None
    port: int | None
    absolute: bool
    length: int | None

    @property
    def connect(self) -> bool:
        return self.method == b"CONNECT"

    def closing(self) -> bytes:
        """The head as it is sent on when it is to be the connection's only request."""
        lines = [b" ".join((self.method, self.target, self.version))]
        lines += [b": ".join(field) for field in self.fields if field[0].lower() not in _OF_THE_CONNECTION]
        return b"\r\n".join((*lines, b"Connection: close", b"", b""))


def parse(head: bytes) -> Head:
    """
    Parse a head, which ends with its empty line.

    Raises:
        HostMismatch: Two Host fields, or a target that names another host than Host.
        Malformed
    """
    lines = head[:-4].split(b"\r\n")
    if len(lines) > _MAX_LINES:
        raise Malformed("too many lines")
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise Malformed("no request line")
    method, target, version = parts
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target) or version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise Malformed("no request line of HTTP/1")
    fields = [_field(line) for line in lines[1:]]
    host, port, origin = _host(method, target, fields)
    length = _length(fields, version)
    return Head(method, origin, version, fields, host, port, origin != target or method == b"CONNECT", length)


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    # Also refuses folded lines, spaces before the colon, and bare CR, LF or NUL.
    if not colon or not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
        raise Malformed("no header field")
    return name, value.strip(b" \t")


def _host(
    method: bytes, target: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> tuple[bytes | None, int | None, bytes]:
    """Return host and port, and the target in origin form."""
    hosts = [value for name, value in fields if name.lower() == b"host"]
    if len(hosts) > 1:
        raise HostMismatch("two Host fields")
    said = _authority(hosts[0]) if hosts and hosts[0] else (None, None)
    if method == b"CONNECT":
        return *_authority(target), target
    if target.startswith(b"/") or target == b"*":
        return *said, target
    if target[:7].lower() != b"http://":
        raise Malformed("a target that is neither a path nor a URL of plain HTTP")
    rest = target[7:]
    cut = min((at for at in map(rest.find, (b"/", b"?", b"#")) if at >= 0), default=len(rest))
    named = _authority(rest[:cut])
    if said[0] is not None and (said[0].lower(), said[1] or 80) != (named[0].lower(), named[1] or 80):
        raise HostMismatch("the URL names another host than the Host field")
    path = rest[cut:]
    return *named, path if path.startswith(b"/") else b"/" + path


def _authority(text: bytes) -> tuple[bytes, int | None]:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise Malformed("no host and port")
    port = int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        raise Malformed("no such port")
    return found[1], port


def _length(fields: Sequence[tuple[bytes, bytes]], version: bytes) -> int | None:
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or version != b"HTTP/1.1":
            raise Malformed("two ways to say how long the body is")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Malformed("no Content-Length")
    return int(lengths[0])


class Body:
    """
    How much of what follows a head belongs to its body.

    Args:
        length: As of `Head.length`.
    """

    def __init__(self, length: int | None) -> None:
        self._chunked = length is None
        self._left = length or 0  # of the body or of this chunk, with the line end after it
        self._line = bytearray()
        self._trailers = False
        self.done = length == 0

    def take(self, data: bytes) -> int:
        """
        Return how many of these bytes belong to the body; less than all when it is `done` then.

        Raises:
            Malformed: Of its chunks.
        """
        at = 0
        while at < len(data) and not self.done:
            if self._left > 0:
                count = min(self._left, len(data) - at)
                at += count
                self._left -= count
                self.done = not self._chunked and self._left == 0
            else:
                end = data.find(b"\n", at)
                piece = data[at : end + 1] if end >= 0 else data[at:]
                at += len(piece)
                self._line += piece
                if len(self._line) > _MAX_CHUNK_LINE_BYTES:
                    raise Malformed("a long line between chunks")
                if end >= 0:
                    self._end_of_line()
        return at

    def _end_of_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n"):
            raise Malformed("a line between chunks that ends in a bare LF")
        if self._trailers:
            self.done = line == b"\r\n"
            return
        found = re.fullmatch(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e]*)?\r\n", line)
        if found is None:
            raise Malformed("no size of a chunk")
        size = int(found[1], 16)
        self._trailers = size == 0
        self._left = size + 2 if size else 0


def refusal(status: str, text: str) -> bytes:
    """An answer of ours in the server's place. *text* is for the user, in ASCII; quote nothing of the guest's."""
    body = f"{text}\n".encode("ascii", "replace")
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
