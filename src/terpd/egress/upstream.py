"""What lies between this host and the world: settings of the gateway, given by the operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Upstream:
    """
    Attributes:
        proxy: `http://[user:password@]host:port` of a corporate proxy that connections are made through by CONNECT;
            names are then resolved there, and address classes can only be checked for literals. None: directly.
        resolvers: Addresses of DNS servers to ask; empty: the host's own resolution.
        allow_addresses: Networks in CIDR notation that may be reached although their class is forbidden, e.g. an
            internal package mirror's. An address of this host itself must be given alone, as /32 or /128.
        default_domains: What `restricted` allows where a policy has no list of its own. In this list, as in a
            policy's, `http://name` also allows plain HTTP on port 80, which apt's sources use.
        max_connections: Of one sandbox at the same time.
    """

    proxy: str | None = None
    resolvers: Sequence[str] = ()
    allow_addresses: Sequence[str] = ()
    default_domains: Sequence[str] = ()
    max_connections: int = 64
