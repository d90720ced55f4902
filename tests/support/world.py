"""
Three empty networks: a guest's cell, this process with the gateway, and a world of servers. No packet leaves them.

    cell                                    here                         world
    every address leads to one listener  →  gateway, terpd's client   →  servers at public addresses, a name server

The test's thread moves into the middle one, so that the gateway is started there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from terpd.egress.base import Sockets
from terpd.egress.netd.syscalls import enter_network, own_network, unshare_network

T = TypeVar("T")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NAME_SERVER = "9.9.9.9"
_ROUTER, _HERE = "192.168.7.1", "192.168.7.2"


def _in_thread(act: Callable[[], T]) -> T:
    """Return what *act* returns in a thread of its own, which may move where it likes."""
    found: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(act())
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return found[0]


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-b", "-"], input="\n".join(lines), text=True, check=True)


def add_own_address(address: str) -> None:
    """To the calling thread's network."""
    _ip(f"addr add {address}/32 dev lo")


class Network:
    """A network namespace that this object keeps alive."""

    def __init__(self, *lines: str) -> None:
        def make() -> int:
            unshare_network()
            _ip("link set lo up", *lines)
            return own_network()

        self.fd = _in_thread(make)

    def run(self, act: Callable[[], T]) -> T:
        def within() -> T:
            enter_network(self.fd)
            return act()

        return _in_thread(within)

    def socket(self, kind: int, bound: tuple[str, int] | None = None) -> socket.socket:
        """A non-blocking one; listening if it is bound and of TCP."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if bound is not None:
                made.bind(bound)
                if kind == socket.SOCK_STREAM:
                    made.listen(512)
            return made

        return self.run(make)

    def close(self) -> None:
        os.close(self.fd)


class Cell:
    """A guest's side: whatever it dials at *port*, and each name server, is the gateway's."""

    def __init__(self, port: int) -> None:
        self._network = Network("route add local 0.0.0.0/0 dev lo")
        self.port = port
        self._tcp = self._network.socket(socket.SOCK_STREAM, ("0.0.0.0", port))
        self._dns_udp = self._network.socket(socket.SOCK_DGRAM, ("0.0.0.0", 53))
        self._dns_tcp = self._network.socket(socket.SOCK_STREAM, ("0.0.0.0", 53))

    @property
    def sockets(self) -> Sockets:
        return Sockets(-1, -1, self._tcp.fileno(), self._dns_udp.fileno(), self._dns_tcp.fileno())

    async def connect(self, address: str, port: int | None = None) -> socket.socket:
        made = self._network.socket(socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(made, (address, port or self.port))
        except BaseException:
            made.close()
            raise
        return made

    async def ask(self, query: bytes, server: str = "8.8.8.8") -> tuple[bytes, str]:
        """Return the answer to a DNS message over UDP, and the address that it came from."""
        with self._network.socket(socket.SOCK_DGRAM) as made:
            loop = asyncio.get_running_loop()
            await loop.sock_sendto(made, query, (server, 53))
            answer, source = await loop.sock_recvfrom(made, 4096)
            return answer, source[0]

    async def resolve(self, name: str) -> str | None:
        """The address that the guest gets for a name; None when it does not exist."""
        answer, _ = await self.ask(dns.message.make_query(name, "A").to_wire())
        found = dns.message.from_wire(answer)
        return found.answer[0][0].to_text() if found.answer else None

    def close(self) -> None:
        for each in (self._tcp, self._dns_udp, self._dns_tcp):
            each.close()
        self._network.close()


class World:
    """Servers at any address but 192.168.7.0/24, and names for them."""

    def __init__(self) -> None:
        self._network = Network("route add local 0.0.0.0/0 dev lo")
        path = f"/proc/{os.getpid()}/fd/{self._network.fd}"
        _ip(
            "link set lo up",
            f"link add world type veth peer name host netns {path}",
            f"addr add {_HERE}/30 dev world",
            "link set world up",
            f"route add default via {_ROUTER}",
        )
        self._network.run(lambda: _ip(f"addr add {_ROUTER}/30 dev host", "link set host up"))
        self.names: dict[str, Sequence[str]] = {}
        self.asked: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._over = False
        self._name_server = self._network.socket(socket.SOCK_DGRAM, (NAME_SERVER, 53))

    async def serve(self, address: str, port: int, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        listener = self._network.socket(socket.SOCK_STREAM, (address, port))

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await handler(reader, writer)
            finally:
                writer.transport.abort() if self._over else writer.close()
                self._serving.discard(task)

        self._servers.append(await asyncio.start_server(handle, sock=listener, ssl=tls))

    def run(self, act: Callable[[], T]) -> T:
        """Return what *act* returns in this network."""
        return self._network.run(act)

    def listen(self, address: str, port: int) -> socket.socket:
        return self._network.socket(socket.SOCK_STREAM, (address, port))

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._name_server.fileno(), self._answer)

    def _answer(self) -> None:
        data, client = self._name_server.recvfrom(4096)
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.asked.append(question.name.to_text(omit_final_dot=True))
        reply = dns.message.make_response(query)
        addresses = [each for each in self.names.get(self.asked[-1], ()) if (":" in each) == (question.rdtype == 28)]
        if addresses:
            kind = dns.rdatatype.to_text(question.rdtype)
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *addresses))
        self._name_server.sendto(reply.to_wire(), client)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._name_server.fileno())
        self._name_server.close()
        self._over = True
        for server in self._servers:
            server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round
        self._network.close()


@contextlib.contextmanager
def moved() -> Iterator[None]:
    """The calling thread, and what it starts, in an empty network of its own."""
    home = own_network()
    unshare_network()
    try:
        yield
    finally:
        enter_network(home)
        os.close(home)


@contextlib.asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    """Only within `moved`."""
    world = World()
    world.start()
    try:
        yield world
    finally:
        await world.close()


def client_hello(name: str | None) -> bytes:
    """What a TLS client sends first."""
    context = ssl.create_default_context()
    if name is None:
        context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()
