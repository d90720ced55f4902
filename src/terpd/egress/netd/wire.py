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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 8
HELLO_ID = 0
INVALID, BUSY, REFUSED = "invalid", "busy", "refused"  # kinds of errors

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
    socket.send_fds(sock, [json.dumps(body).encode()], list(fds), socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> Message | None:
    """
    Return the next message, None when the other end is closed.

    Raises:
        Malformed: Too long, too many descriptors, or no JSON object.
        OSError: As of recvmsg(2).
    """
    content, fds, flags, _ = socket.recv_fds(sock, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not content and not fds:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Malformed("longer, or with more descriptors, than a message may be")
        return Message(_parse(content), fds)
    except BaseException:
        close_all(fds)
        raise


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
