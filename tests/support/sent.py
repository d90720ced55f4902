"""What clients send first, right and wrong: HTTP requests and TLS hellos, as bytes."""

from __future__ import annotations

import struct

from support.world import client_hello

_HANDSHAKE, _CLIENT_HELLO = 0x16, 1
SERVER_NAME, ENCRYPTED_HELLO = 0, 0xFE0D


def request(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def get(host: str, *lines: str) -> bytes:
    return request("GET / HTTP/1.1", f"Host: {host}", *lines)


def connect(target: str, inner: bytes = b"") -> bytes:
    return request(f"CONNECT {target} HTTP/1.1", f"Host: {target}", body=inner)


def hello(name: bytes) -> bytes:
    """A ClientHello whose server name is *name*, whatever that is."""
    standing_in = b"a" * len(name)
    return client_hello(standing_in.decode()).replace(standing_in, name)


def with_extension(sent: bytes, kind: int, body: bytes) -> bytes:
    """*sent*, a ClientHello in one record, with one more extension."""
    at = 5 + 4 + 34  # record, handshake, version and random
    at += 1 + sent[at]  # session id
    at += 2 + int.from_bytes(sent[at : at + 2])  # cipher suites
    at += 1 + sent[at]  # compression methods
    extensions = sent[at + 2 :] + struct.pack("!HH", kind, len(body)) + body
    message = sent[9:at] + struct.pack("!H", len(extensions)) + extensions
    handshake = bytes((_CLIENT_HELLO,)) + len(message).to_bytes(3) + message
    return bytes((_HANDSHAKE, 3, 1)) + struct.pack("!H", len(handshake)) + handshake


def server_name(name: bytes) -> bytes:
    """The body of that extension."""
    return struct.pack("!HBH", len(name) + 3, 0, len(name)) + name
