"""
The addresses that stand for names in one sandbox: 198.18.64.0/18, of which nothing is ever dialled.

A name's address is found from its hash, so that it has the same one after a restart of this process, after a resume
and in a fork, where programs may still hold the answers that they got before.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections import OrderedDict

NETWORK = ipaddress.IPv4Network("198.18.64.0/18")
_MAX_NAMES = 4096  # a quarter of the addresses, so that a free one is near


class SyntheticNames:
    """Both ways between names and addresses; the names used least recently are forgotten first."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, int] = OrderedDict()
        self._names: dict[int, str] = {}

    def address(self, name: str) -> ipaddress.IPv4Address:
        """The address that stands for *name* from now on."""
        offset = self._addresses.get(name)
        if offset is None:
            offset = self._free(name)
            if len(self._addresses) >= _MAX_NAMES:
                _, forgotten = self._addresses.popitem(last=False)
                del self._names[forgotten]
            self._addresses[name] = offset
            self._names[offset] = name
        self._addresses.move_to_end(name)
        return NETWORK[offset]

    def name(self, address: str) -> str | None:
        """The name that *address* stands for; None for any other address."""
        parsed = ipaddress.IPv4Address(address)
        if parsed not in NETWORK:
            return None
        name = self._names.get(int(parsed) - int(NETWORK.network_address))
        if name is not None:
            self._addresses.move_to_end(name)
        return name

    def _free(self, name: str) -> int:
        usable = NETWORK.num_addresses - 2  # clients shun addresses that look like a network's or its broadcast's
        offset = zlib.crc32(name.encode()) % usable
        while offset + 1 in self._names:
            offset = (offset + 1) % usable
        return offset + 1
