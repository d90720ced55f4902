"""What lies between this host and the world: settings of the gateway, given by the operator."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from terpd.model.names import NameInvalid, parse_entry


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

    Raises:
        ValueError: What is given makes no sense; the text names it.
    """

    proxy: str | None = field(default=None, repr=False)
    resolvers: Sequence[str] = ()
    allow_addresses: Sequence[str] = ()
    default_domains: Sequence[str] = ()
    max_connections: int = 64

    def __post_init__(self) -> None:
        for text in self.resolvers:
            ipaddress.ip_address(text)
        for text in self.allow_addresses:
            ipaddress.ip_network(text)
        for text in self.default_domains:
            try:
                parse_entry(text)
            except NameInvalid as error:
                raise ValueError(f"{error}: {text}") from error
        if self.max_connections < 1:
            raise ValueError("at least one connection of a sandbox at the same time is needed")
        if self.proxy is not None:
            parts = urlsplit(self.proxy)
            # Its password must not end up in a log.
            if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"} or parts.port == 0:
                raise ValueError("an upstream proxy is given as http://[user:password@]host:port")
