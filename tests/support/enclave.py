"""
An empty network with a few HTTPS servers and a name server, to run processes in: no packet of theirs leaves it.

A server there has the settings in `settings`, and its sandboxes reach the names in `NAMES`, as far as they may.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import dns.message
import dns.rdatatype
import dns.rrset

from support.world import Network
from terpd.egress.authority import certificate_for, make_authority

NAMES: Mapping[str, str] = {
    "allowed.example": "127.0.0.10",
    "sub.allowed.example": "127.0.0.10",
    "denied.example": "127.0.0.11",
    "default.example": "127.0.0.12",
}
DEFAULT_DOMAIN = "default.example"
_NAME_SERVER = "127.0.0.9"
_BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nreached"
_PATIENCE_S = 60.0


class Enclave:
    """
    Attributes:
        prefix: Words that start a program in it.
        settings: Of a server in it: its gateway resolves names here, and may reach these addresses only because the
            settings say so.
    """

    def __init__(self) -> None:
        self._network = Network()
        self.prefix: Sequence[str] = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self._network.fd}", "--")
        self.settings: Mapping[str, str] = {
            "TERP_RESOLVERS": _NAME_SERVER,
            "TERP_ALLOW_ADDRESSES": ",".join(sorted({f"{address}/32" for address in NAMES.values()})),
            "TERP_DEFAULT_DOMAINS": DEFAULT_DOMAIN,
        }
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        context = certificate_for(make_authority("Enclave"), "allowed.example")
        self._serve(_NAME_SERVER, 53, socket.SOCK_DGRAM, _answer_names)
        for address in set(NAMES.values()):
            self._serve(address, 443, socket.SOCK_STREAM, lambda listener: _accept(listener, context))
            self._serve(address, 80, socket.SOCK_STREAM, lambda listener: _accept(listener, None))

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(timeout=_PATIENCE_S)
        self._network.close()

    def _serve(self, address: str, port: int, kind: int, serve: Callable[[socket.socket], None]) -> None:
        """Until the socket is shut down."""

        def run() -> None:
            with contextlib.suppress(OSError):
                serve(made)

        made = self._network.socket(kind, (address, port))
        made.setblocking(True)
        self._sockets.append(made)
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()


def _answer_names(server: socket.socket) -> None:
    while True:
        data, client = server.recvfrom(4096)
        if not data:
            return  # shut down
        query = dns.message.from_wire(data)
        question = query.question[0]
        reply = dns.message.make_response(query)
        address = NAMES.get(question.name.to_text(omit_final_dot=True))
        if address is not None and question.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
        server.sendto(reply.to_wire(), client)


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """One after the other: a case asks one question at a time."""
    while True:
        plain, _ = listener.accept()
        plain.settimeout(_PATIENCE_S)
        with contextlib.suppress(OSError), plain:
            connection = plain if context is None else context.wrap_socket(plain, server_side=True)
            with connection:
                connection.recv(65536)
                connection.sendall(_BODY)


@contextlib.contextmanager
def running_enclave() -> Iterator[Enclave]:
    enclave = Enclave()
    try:
        yield enclave
    finally:
        enclave.close()
