"""
Networks without a network: the helper's and the gateway's ends, in memory, over real descriptors.

A TAP is some anonymous file, which a monitor inherits and a later daemon takes back; a namespace is a listening socket
on the loopback interface, standing for all ports of a guest.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence

from terpd.egress.base import Authority, Sockets
from terpd.model.errors import Unavailable
from terpd.model.ids import SandboxId
from terpd.model.network import EgressRecord, NetworkSpec
from terpd.node.network.networks import Networks


class SimulatedNamespaces:
    """
    Attributes:
        open: Those that were made or adopted and not closed.
        guest: Where `connect` leads: a port of the loopback interface that a test serves; nobody there by default.
        failure: Raised by `create` and `adopt`.
    """

    def __init__(self) -> None:
        self.open: list[Sockets] = []
        self.created = 0
        self.adopted: list[Sockets] = []
        self.guest: int | None = None
        self.failure: Unavailable | None = None

    async def create(self) -> Sockets:
        return self._make(os.memfd_create("tap", os.MFD_CLOEXEC))

    async def adopt(self, tap: int) -> Sockets:
        made = self._make(tap)
        self.adopted.append(made)
        return made

    async def connect(self, namespace: int, port: int) -> int:
        assert any(each.namespace == namespace for each in self.open)
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self.guest or _free_port()))
        return connection.detach()

    async def close(self, sockets: Sockets) -> None:
        self.open.remove(sockets)
        for fd in (sockets.tap, sockets.namespace, sockets.tcp, sockets.dns_udp, sockets.dns_tcp):
            os.close(fd)

    async def aclose(self) -> None:
        pass

    def _make(self, tap: int) -> Sockets:
        if self.failure is not None:
            raise self.failure
        self.created += 1
        sockets = Sockets(tap, *(os.memfd_create("socket", os.MFD_CLOEXEC) for _ in range(4)))
        self.open.append(sockets)
        return sockets


class SimulatedGateway:
    """
    Attributes:
        served: What each sandbox may; None is blocked.
        failure: Raised by all acts, and by `open`.
        acts: In their order, e.g. `admit sbx_…`.
    """

    def __init__(self) -> None:
        self.served: dict[SandboxId, NetworkSpec | None] = {}
        self.authorities: dict[SandboxId, Authority | None] = {}
        self.failure: Unavailable | None = None
        self.acts: list[str] = []
        self.recorded: asyncio.Queue[Sequence[EgressRecord] | None] = asyncio.Queue()

    async def open(self) -> None:
        self._act("open", "")

    async def close(self) -> None:
        self.recorded.put_nowait(None)

    async def admit(
        self, sandbox_id: SandboxId, sockets: Sockets, network: NetworkSpec | None, authority: Authority | None
    ) -> None:
        self._act("admit", sandbox_id)
        os.fstat(sockets.tcp)  # still open
        self.served[sandbox_id] = network
        self.authorities[sandbox_id] = authority

    async def update(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        self._act("update", sandbox_id)
        assert sandbox_id in self.served
        self.served[sandbox_id] = network

    async def dismiss(self, sandbox_id: SandboxId) -> None:
        self._act("dismiss", sandbox_id)
        self.served.pop(sandbox_id, None)

    async def records(self) -> AsyncIterator[Sequence[EgressRecord]]:
        while (batch := await self.recorded.get()) is not None:
            yield batch

    def _act(self, name: str, sandbox_id: str) -> None:
        self.acts.append(f"{name} {sandbox_id}".strip())
        if self.failure is not None:
            raise self.failure


def networks(namespaces: SimulatedNamespaces, gateway: SimulatedGateway) -> Networks:
    """One daemon's."""
    return Networks(namespaces, gateway, ready=0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
