"""
The seams of a sandbox's network, between three processes.

    terpd (node/network)          holds the descriptors, starts and restarts the two others
      ├── namespaces (netd)       privileged, tiny: makes {namespace, TAP, rules, listening sockets}, hands them over
      └── gateway                 unprivileged: accepts on those sockets, decides, resolves, dials, relays, records

A namespace holds a TAP and nothing else; every packet of the guest ends at one of three sockets, which belong to the
gateway. If the gateway dies the sockets have no reader, so nothing passes; terpd starts another and gives it the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from terpd.model.ids import SandboxId
from terpd.model.network import EgressRecord, NetworkSpec


@dataclass(frozen=True, slots=True)
class Sockets:
    """
    Descriptors of one namespace, owned by who holds this.

    Attributes:
        tap: For QEMU (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).
        namespace: Of the network namespace itself: keeps it alive, and new sockets are made in it.
        tcp: Listening, IP_TRANSPARENT: accepts every TCP destination; `getsockname` of the accepted is what the guest
            dialled.
        dns_udp, dns_tcp: Port 53 of every destination.
    """

    tap: int
    namespace: int
    tcp: int
    dns_udp: int
    dns_tcp: int


class Namespaces(Protocol):
    """Raises Unavailable when the helper is away or the host refuses; the text says what the operator can do."""

    async def create(self) -> Sockets:
        """A fresh namespace, 2 ms; a pool of ready ones hides that."""

    async def adopt(self, tap: int) -> Sockets:
        """The namespace of a TAP that outlived its daemon, with new listening sockets. *tap* becomes the result's."""

    async def connect(self, namespace: int, port: int) -> int:
        """A non-blocking TCP socket made in the namespace, connecting to the guest's *port*."""

    async def close(self, sockets: Sockets) -> None:
        """Close them all. The last descriptor of a TAP takes 28 ms to close, so it is done where nobody waits."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA of one sandbox, trusted by that guest alone: PEM certificate, and PEM key, which is in memory only."""

    certificate: bytes
    key: bytes = field(repr=False)


class Gateway(Protocol):
    """
    The client's end. All acts may be repeated; Unavailable when there is no gateway and none can be started.
    """

    async def admit(
        self, sandbox_id: SandboxId, sockets: Sockets, network: NetworkSpec | None, authority: Authority | None
    ) -> None:
        """
        Serve a namespace (with duplicates of its listening sockets). *network* None blocks everything.

        A gateway that was started again is given all that were admitted by this object.
        """

    async def update(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        """Change the policy, also of connections under way; on return it holds."""

    async def dismiss(self, sandbox_id: SandboxId) -> None:
        """Close all its connections and forget it and its credentials. On return their records were sent."""

    def records(self) -> AsyncIterator[Sequence[EgressRecord]]: ...
