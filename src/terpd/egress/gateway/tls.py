"""
The name in a TLS ClientHello (RFC 8446, 6066), read from however many segments and records it comes in.

With Encrypted Client Hello the name read here is the outer one, and the inner one cannot be seen: a list that allows
a front that serves others' names by it allows those as well. Nor can it be refused: browsers always send the extension.
"""

from __future__ import annotations

MAX_HELLO_BYTES = 32 * 1024  # those with post-quantum keys have 2 KiB; OpenSSL takes at most 128 KiB
HANDSHAKE = 0x16
_MAX_RECORD_BYTES = 16 * 1024
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
# Fatal alerts, which clients put into their errors' texts.
ACCESS_DENIED = bytes((0x15, 3, 3, 0, 2, 2, 49))
INTERNAL_ERROR = bytes((0x15, 3, 3, 0, 2, 2, 80))


class Malformed(ValueError):
    """Not what a client of this protocol sends. For the log."""


class HelloReader:
    """
    Reads a ClientHello that comes in pieces; each byte is looked at once, however small the pieces are.

    `name` is valid once `feed` returned True: the server name as sent, None without one.
    """

    def __init__(self) -> None:
        self.name: bytes | None = None
        self._pending = bytearray()  # of a record that is not yet complete
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """
        Take bytes that follow those before; True once the hello is complete.

        Raises:
            Malformed: It is no ClientHello, or too large.
        """
        self._pending += data
        while len(self._pending) >= 5:
            kind, major, length = self._pending[0], self._pending[1], int.from_bytes(self._pending[3:5])
            if kind != HANDSHAKE or major != 3 or not 0 < length <= _MAX_RECORD_BYTES:
                raise Malformed("not a TLS handshake record")
            if len(self._pending) < 5 + length:
                break
            self._message += self._pending[5 : 5 + length]
            del self._pending[: 5 + length]
            if self._complete():
                return True
        return False

    def _complete(self) -> bool:
        if self._message[0] != _CLIENT_HELLO:
            raise Malformed("not a ClientHello")
        if len(self._message) < 4:
            return False
        length = int.from_bytes(self._message[1:4])
        if length > MAX_HELLO_BYTES:
            raise Malformed("a ClientHello of more than 32 KiB")
        if len(self._message) < 4 + length:
            return False
        self.name = _server_name(bytes(self._message[4 : 4 + length]))
        return True


def _server_name(hello: bytes) -> bytes | None:
    at = _after(hello, 2 + 32, 1)  # version and random, then the session id
    at = _after(hello, at, 2)  # cipher suites
    at = _after(hello, at, 1)  # compression methods
    if at == len(hello):
        return None
    if _after(hello, at, 2) != len(hello):
        raise Malformed("bytes after the extensions")
    at += 2
    name = None
    while at < len(hello):
        kind, start = int.from_bytes(hello[at : at + 2]), at + 4
        at = _after(hello, at + 2, 2)
        if kind == _SERVER_NAME:
            if name is not None:  # which one counts would be the server's choice
                raise Malformed("two server names")
            name = _host_name(hello[start:at])
    return name


def _host_name(body: bytes) -> bytes:
    """The name of a list with one."""
    if _after(body, 0, 2) != len(body) or _after(body, 3, 2) != len(body) or body[2] != _HOST_NAME or len(body) == 5:
        raise Malformed("not one host name")
    return body[5:]


def _after(data: bytes, at: int, length_bytes: int) -> int:
    """The position after the field at *at*, which begins with its length."""
    start = at + length_bytes
    end = start + int.from_bytes(data[at:start])
    if end > len(data):
        raise Malformed("a field ends early")
    return end
