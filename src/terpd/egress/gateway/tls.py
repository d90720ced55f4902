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


class _Bytes:
    """Takes fields off the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise Malformed("a field ends early")
        self._at += count
        return taken

    def vector(self, length_bytes: int) -> bytes:
        return self.take(int.from_bytes(self.take(length_bytes)))


def _server_name(hello: bytes) -> bytes | None:
    rest = _Bytes(hello)
    rest.take(2 + 32)  # version and random
    rest.vector(1)  # session id
    rest.vector(2)  # cipher suites
    rest.vector(1)  # compression methods
    if not rest:
        return None
    extensions = _Bytes(rest.vector(2))
    if rest:
        raise Malformed("bytes after the extensions")
    name = None
    while extensions:
        kind, body = int.from_bytes(extensions.take(2)), extensions.vector(2)
        if kind == _SERVER_NAME:
            if name is not None:  # which one counts would be the server's choice
                raise Malformed("two server names")
            name = _host_name(body)
    return name


def _host_name(body: bytes) -> bytes:
    extension = _Bytes(body)
    names = _Bytes(extension.vector(2))
    kind, name = names.take(1)[0], names.vector(2)
    if extension or names or kind != _HOST_NAME or not name:
        raise Malformed("not one host name")
    return name
