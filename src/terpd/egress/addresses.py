"""
Addresses that are nobody's to reach from a sandbox: everything that is not plainly a public host.

`ipaddress.is_global` is no safe test: it is true for multicast, NAT64 of 127.0.0.1 and 6to4 of private ones.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Range = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries (RFC 6890 and what came later), and what clouds put on public addresses.
_IPV4 = {
    ipaddress.IPv4Network(text): kind
    for text, kind in {
        "0.0.0.0/8": "this network",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared by carriers",
        "127.0.0.0/8": "loopback",
        "168.63.129.16/32": "metadata",  # Azure's, on a public address
        "169.254.0.0/16": "link-local, metadata",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "protocol assignments",
        "192.0.2.0/24": "documentation",
        "192.31.196.0/24": "AS112",
        "192.52.193.0/24": "AMT",
        "192.88.99.0/24": "6to4 relays",
        "192.168.0.0/16": "private",
        "192.175.48.0/24": "AS112",
        "198.18.0.0/15": "benchmarks, and our own sandboxes",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved, broadcast",
    }.items()
}
_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")  # all that is assigned; NAT64, ULA, link-local, mapped, … are outside
_IPV6 = {
    ipaddress.IPv6Network(text): kind
    for text, kind in {
        "2001::/23": "protocol assignments, Teredo",
        "2001:db8::/32": "documentation",
        "2002::/16": "6to4",  # carries any IPv4 address
        "2620:4f:8000::/48": "AS112",
        "3fff::/20": "documentation",
    }.items()
}


def forbidden(address: Address, *, own: Callable[[Address], bool], allowed: Sequence[Range] = ()) -> str | None:
    """
    Return why nobody may reach *address*, None if it may be reached. Pure but for *own*.

    Args:
        own: Whether it is an address of this host, also a public one. Asked last.
        allowed: The operator's exceptions. One that names a single address holds for this host's own, too; a wider
            one does not: the mirror's network may well hold this host and its API.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    excepted = [network for network in allowed if address.version == network.version and address in network]
    if any(network.prefixlen == network.max_prefixlen for network in excepted):
        return None
    kind = None if excepted else _kind(address)
    if kind is None and own(address):
        kind = "this host's own"
    return kind


def _kind(address: Address) -> str | None:
    if isinstance(address, ipaddress.IPv4Address):
        return next((kind for network, kind in _IPV4.items() if address in network), None)
    if address not in _IPV6_PUBLIC or address.scope_id is not None:
        return "not public"
    return next((kind for network, kind in _IPV6.items() if address in network), None)
