"""The client of the helper that makes namespaces (egress/netd): starts it, asks it, and starts another when it died."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import structlog

from terpd.egress.base import Sockets
from terpd.egress.netd import wire
from terpd.egress.netd.process import HelperLost, HelperProcess, Refused
from terpd.model.errors import Unavailable

log = structlog.get_logger()

_BUSY_RETRY_S = 0.05
_BUSY_TIMEOUT_S = 10.0  # for a former gateway to end, once it notices that its terpd is gone


class NamespaceHelper:
    """
    Implements the port `Namespaces`. The helper starts with the first request and ends with `aclose`, or with us.

    Namespaces do not depend on it: they live by their descriptors, which are ours.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: HelperProcess | None = None

    @property
    def pid(self) -> int | None:
        """Of the helper, None while there is none."""
        return self._process.pid if self._process and not self._process.lost else None

    async def create(self) -> Sockets:
        try:
            tap, namespace, tcp, dns_udp, dns_tcp = await self._ask({"op": "create"}, [], makes=5)
        except Refused as error:
            raise Unavailable(
                f"No network can be made on this server. {error}", context={"kind": error.kind}
            ) from error
        return Sockets(tap=tap, namespace=namespace, tcp=tcp, dns_udp=dns_udp, dns_tcp=dns_tcp)

    async def adopt(self, tap: int) -> Sockets:
        """If it raises, *tap* is still the caller's."""
        give_up_at = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                namespace, tcp, dns_udp, dns_tcp = await self._ask({"op": "adopt"}, [tap], makes=4)
            except Refused as error:
                if error.kind != wire.BUSY or time.monotonic() > give_up_at:
                    detail = f"The network of a machine cannot be taken over. {error}"
                    raise Unavailable(detail, context={"kind": error.kind}) from error
                await asyncio.sleep(_BUSY_RETRY_S)
            else:
                return Sockets(tap=tap, namespace=namespace, tcp=tcp, dns_udp=dns_udp, dns_tcp=dns_tcp)

    async def connect(self, namespace: int, port: int) -> int:
        try:
            (connecting,) = await self._ask({"op": "connect", "port": port}, [namespace], makes=1)
        except Refused as error:
            detail = f"The sandbox cannot be dialled at port {port}. {error}"
            raise Unavailable(detail, context={"kind": error.kind}) from error
        return connecting

    async def close(self, sockets: Sockets) -> None:
        # At once: the TAP is persistent, so its last descriptor is as cheap as any, and the kernel removes it later,
        # together with its namespace.
        wire.close_all([sockets.tcp, sockets.dns_udp, sockets.dns_tcp, sockets.tap, sockets.namespace])

    async def aclose(self) -> None:
        """End the helper. Namespaces stay as they are."""
        async with self._turn:
            if self._process is not None:
                await self._process.end()
                self._process = None

    async def _ask(self, body: wire.Body, fds: Sequence[int], *, makes: int) -> Sequence[int]:
        """
        Return the *makes* descriptors of the answer. A helper that is lost meanwhile is replaced once.

        Raises:
            Refused: The helper says no.
            Unavailable: Two were lost, or none starts.
        """
        # Duplicates: the caller may be cancelled, and close its own, between two attempts.
        kept = [os.dup(fd) for fd in fds]
        try:
            async with self._turn:
                try:
                    return await (await self._running()).ask(body, kept, makes=makes)
                except HelperLost as error:
                    log.warning("namespace helper lost", why=str(error))
                    return await (await self._running()).ask(body, kept, makes=makes)
        except HelperLost as error:
            raise Unavailable(f"The network helper is away: {error}. Try again") from error
        finally:
            wire.close_all(kept)

    async def _running(self) -> HelperProcess:
        if self._process is not None and self._process.lost:
            await self._process.end()
            self._process = None
        if self._process is None:
            self._process = await HelperProcess.start()
            log.info("namespace helper started", pid=self._process.pid)
        return self._process
