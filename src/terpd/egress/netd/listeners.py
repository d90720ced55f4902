"""The sockets of a namespace: three that listen for the gateway, and one to the guest for each preview."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

from terpd.egress.netd.rules import DNS_PORT, TCP_PORT
from terpd.model.network import GUEST_ADDRESS

_IP_TRANSPARENT, _IP_PKTINFO = 19, 8  # linux/in.h
_BACKLOG = 256  # connections that wait for the gateway, which accepts as many as a sandbox may have


def open_listeners() -> tuple[int, int, int]:
    """
    Return (tcp, dns_udp, dns_tcp), non-blocking, made in the calling thread's namespace.

    Raises:
        OSError: EADDRINUSE while a former gateway has not closed its own.
    """
    with ExitStack() as undo:
        tcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        dns_udp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        dns_tcp = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        for listener, port in ((tcp, TCP_PORT), (dns_tcp, DNS_PORT)):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # over connections that linger
            listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
            listener.bind(("0.0.0.0", port))
            listener.listen(_BACKLOG)
        dns_udp.setsockopt(socket.SOL_IP, _IP_PKTINFO, 1)  # whom the guest asked is who answers
        dns_udp.bind(("0.0.0.0", DNS_PORT))
        return tcp.detach(), dns_udp.detach(), dns_tcp.detach()


def dial_guest(port: int) -> int:
    """A non-blocking socket that is connecting to the guest's *port*. Raises OSError when that fails at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        result = sock.connect_ex((GUEST_ADDRESS, port))
        if result not in (0, errno.EINPROGRESS):
            raise OSError(result, os.strerror(result))
        return sock.detach()
