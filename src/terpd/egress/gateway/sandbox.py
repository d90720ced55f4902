"""One sandbox's traffic: its listening sockets, its connections, and what it may do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from terpd.egress.base import Authority
from terpd.egress.gateway.connection import Connection
from terpd.egress.gateway.dial import Dialer
from terpd.egress.gateway.nameserver import IP_PKTINFO, NameServer
from terpd.egress.gateway.resolve import LOOKUPS
from terpd.egress.gateway.synthetic import SyntheticNames
from terpd.egress.policy import Allowed
from terpd.model.ids import SandboxId
from terpd.model.network import EgressRecord, NetworkSpec

_BATCH = 16  # connections accepted of one sandbox before others have their turn
_PAUSE_S = 0.1  # when this process has no descriptor left
_NONE_LEFT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_CLOSE_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class World:
    """
    What all sandboxes have in common.

    Attributes:
        default: What `restricted` allows where a policy has no list of its own.
        trust: Verifies servers for which a credential is put in.
        max_connections: Of one sandbox.
        record: Takes each record; never waits.
    """

    default: Allowed
    dialer: Dialer
    trust: ssl.SSLContext
    max_connections: int
    record: Callable[[EgressRecord], None]


class Sandbox:
    """
    Serves from `start` to `close`. Connections beyond its share wait in the listener's queue.

    Args:
        tcp, dns_udp, dns_tcp: Listening sockets; this object's to close.
    """

    def __init__(
        self,
        sandbox_id: SandboxId,
        tcp: socket.socket,
        dns_udp: socket.socket,
        dns_tcp: socket.socket,
        network: NetworkSpec | None,
        authority: Authority | None,
        world: World,
    ) -> None:
        self.id = sandbox_id
        self.authority = authority
        self.world = world
        self.names = SyntheticNames()
        self.lookups = asyncio.Semaphore(LOOKUPS)
        self._loop = asyncio.get_running_loop()
        self._listeners = (tcp, dns_tcp)
        self._udp = dns_udp
        self._name_server = NameServer(self, self._loop.time)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._closed = False
        self._full = False
        self._network: NetworkSpec | None = None
        self.allowed = world.default
        if network is not None:
            self.update(network)

    @property
    def spec(self) -> NetworkSpec:
        """Only of a sandbox that has one: all others' connections are closed before anybody asks."""
        assert self._network is not None
        return self._network

    def start(self) -> None:
        for listener in (*self._listeners, self._udp):
            listener.setblocking(False)
        self._udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._loop.add_reader(self._udp.fileno(), self._answer)
        self._listen()

    def update(self, network: NetworkSpec) -> None:
        """
        Let this hold from now on, also for connections under way.

        Raises:
            NameInvalid: Nothing has changed.
        """
        entries = network.policy.allow_domains
        if entries is None:
            self.allowed = self.world.default.with_package_hosts(network.package_hosts)
        else:
            self.allowed = Allowed.parse(entries)
        self._network = network
        for connection in list(self._connections.values()):
            connection.recheck()

    def end_idle(self) -> None:
        for connection in list(self._connections.values()):
            connection.end_if_idle()

    async def close(self) -> None:
        """End all connections, which records them, and let go of the sockets."""
        self._closed = True
        self._stop_listening()
        self._loop.remove_reader(self._udp.fileno())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT_S)
        for listener in (*self._listeners, self._udp):
            listener.close()

    def _listen(self) -> None:
        if self._closed:
            return
        self._full = False
        tcp, dns_tcp = self._listeners
        self._loop.add_reader(tcp.fileno(), self._accept, tcp, self._serve)
        self._loop.add_reader(dns_tcp.fileno(), self._accept, dns_tcp, self._serve_dns)

    def _stop_listening(self) -> None:
        self._full = True
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        for _ in range(_BATCH):
            if len(self._tasks) >= self.world.max_connections:
                self._stop_listening()
                return
            try:
                guest, _ = listener.accept()
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    self._stop_listening()
                    self._loop.call_later(_PAUSE_S, self._listen)
                return
            guest.setblocking(False)
            if self._network is None:
                guest.close()
            else:
                serve(guest)

    def _serve(self, guest: socket.socket) -> None:
        try:
            destination = guest.getsockname()
            guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            guest.close()
            return
        connection = Connection(self, guest, destination)
        task = connection.start()
        self._connections[task] = connection
        self._keep(task)

    def _serve_dns(self, guest: socket.socket) -> None:
        self._keep(self._loop.create_task(self._name_server.serve_tcp(guest)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._connections.pop(task, None)
        if self._full and len(self._tasks) < self.world.max_connections:
            self._listen()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a connection failed", "exception": error})

    def _answer(self) -> None:
        if self._network is None:
            with contextlib.suppress(OSError):
                self._udp.recv(1)
            return
        self._name_server.serve_udp(self._udp)
