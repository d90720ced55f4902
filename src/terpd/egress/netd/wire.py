"""
Messages between terpd and the helper: one JSON object and some descriptors each, one datagram of SOCK_SEQPACKET.

    → {"id": 7, "op": "create"}                           ← {"id": 7} + tap, namespace, tcp, dns_udp, dns_tcp
    → {"id": 8, "op": "adopt"} + tap                      ← {"id": 8} + namespace, tcp, dns_udp, dns_tcp
    → {"id": 9, "op": "connect", "port": 80} + namespace  ← {"id": 9} + socket
                                                          ← {"id": 9, "error": {"kind": "refused", "text": "…"}}

The helper speaks first: `{"id": 0}` when it can work, or an error and its end. Error kinds: `invalid` (the request),
`busy` (sockets of a former gateway still hold the ports; try again), `refused` (the host; the text says what to do).
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 8
HELLO_ID = 0
INVALID, BUSY, REFUSED = "invalid", "busy", "refused"  # kinds of errors

_DESCRIPTOR = struct.Struct("i")
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)

Body = Mapping[str, object]


class Malformed(Exception):
    """A message that is none. Its descriptors were closed."""


@dataclass(frozen=True, slots=True)
class Message:
    """`fds` are the receiver's to close."""

    body: Body
    fds: Sequence[int]


def send(sock: socket.socket, body: Body, fds: Sequence[int] = ()) -> None:
    """Descriptors are duplicated by the kernel; the sender still has its own. Raises OSError."""
    socket.send_fds(sock, [json.dumps(body).encode()], list(fds))


def receive(sock: socket.socket) -> Message | None:
    """
    Return the next message, None when the other end is closed.

    Raises:
        Malformed: Too long, too many descriptors, or no JSON object.
        OSError: As of recvmsg(2).
    """
    # Not socket.recv_fds: it drops its flags (CPython 3.11-3.13), and any program we start would inherit these.
    room = socket.CMSG_LEN(MAX_DESCRIPTORS * _DESCRIPTOR.size)
    content, ancillary, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = [fd for level, kind, data in ancillary if (level, kind) == _RIGHTS for (fd,) in _whole(data)]
    if not content and not fds:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("longer, or with more descriptors, than a message may be")
        return Message(_parse(content), fds)
    except BaseException:
        close_all(fds)
        raise


def _whole(data: bytes) -> Iterator[tuple[int]]:
    return _DESCRIPTOR.iter_unpack(data[: len(data) - len(data) % _DESCRIPTOR.size])


def _parse(content: bytes) -> Body:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(body, dict):
        raise Malformed("not a JSON object")
    return body


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
