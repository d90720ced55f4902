"""Names to addresses, by the host's own resolution or by the operator's servers; bounded in time and in number."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from terpd.egress.addresses import Address

if TYPE_CHECKING:
    import dns.asyncresolver

LOOKUPS = 4  # of one sandbox at a time: names whose servers are slow on purpose take few of the threads
_TIMEOUT_S = 8.0
_THREADS = 64
_KEEP_S = 5.0  # an address that is dialled was checked, so keeping it is no risk; names do move
_KEEP_NONE_S = 1.0
_MAX_KEPT = 4096


class Resolver:
    """
    Args:
        servers: Addresses of DNS servers; empty: the host's own resolution, with its hosts file.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolve")
        self._kept: OrderedDict[str, tuple[float, Sequence[Address]]] = OrderedDict()
        self._servers: dns.asyncresolver.Resolver | None = None
        if servers:
            self._servers = _client(servers)

    def close(self) -> None:
        """Threads that still look something up end when they have."""
        self._threads.shutdown(wait=False)

    async def resolve(self, name: str, lookups: asyncio.Semaphore) -> Sequence[Address]:
        """
        Return the addresses of *name*, best first; none if it has none or nobody knows.

        Args:
            lookups: Of the sandbox that asks; taken until the answer is there, even if nobody waits for it any more.

        Raises:
            TimeoutError
        """
        loop = asyncio.get_running_loop()
        kept = self._kept.get(name)
        if kept is not None and kept[0] > loop.time():
            return kept[1]
        async with asyncio.timeout(_TIMEOUT_S):
            await lookups.acquire()
            asking = asyncio.ensure_future(self._ask(name))
            asking.add_done_callback(lambda _: lookups.release())
            found = await asyncio.shield(asking)
        self._kept[name] = loop.time() + (_KEEP_S if found else _KEEP_NONE_S), found
        self._kept.move_to_end(name)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return found

    async def _ask(self, name: str) -> Sequence[Address]:
        if self._servers is None:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _host_lookup, name)
        four, six = await asyncio.gather(_query(self._servers, name, "A"), _query(self._servers, name, "AAAA"))
        return [*four, *six]


def _client(servers: Sequence[str]) -> dns.asyncresolver.Resolver:
    # Here, for few need it, and it is 0.1 s of a start. All of it at once: later this process may not read it.
    import dns.asyncbackend  # noqa: PLC0415
    import dns.asyncresolver  # noqa: PLC0415
    import dns.rdata  # noqa: PLC0415
    import dns.rdataclass  # noqa: PLC0415
    import dns.rdatatype  # noqa: PLC0415

    dns.asyncbackend.set_default_backend("asyncio")
    for kind in ("A", "AAAA", "CNAME", "SOA", "OPT"):
        dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.from_text(kind))  # type: ignore[no-untyped-call]
    client = dns.asyncresolver.Resolver(configure=False)
    client.nameservers = list(servers)
    client.timeout = 2.0
    client.lifetime = _TIMEOUT_S - 1
    return client


def _host_lookup(name: str) -> Sequence[Address]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return [ipaddress.ip_address(str(each[4][0])) for each in found]


async def _query(servers: dns.asyncresolver.Resolver, name: str, kind: str) -> Sequence[Address]:
    from dns.exception import DNSException  # noqa: PLC0415  as above

    with contextlib.suppress(DNSException, OSError):
        answer = await servers.resolve(name, kind, search=False)
        return [ipaddress.ip_address(record.to_text()) for record in answer]
    return ()
