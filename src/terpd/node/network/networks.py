"""The networks of this node's machines: the two helpers behind them, and a device for each machine that needs one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import structlog

from terpd.egress.base import Gateway, Namespaces
from terpd.model.errors import Unavailable
from terpd.model.network import EgressRecord
from terpd.node.jail.process import Process
from terpd.node.network.nic import Nic
from terpd.node.network.pool import NamespacePool

log = structlog.get_logger()


class OwnedNamespaces(Namespaces, Protocol):
    """It starts what it needs with its first request."""

    async def aclose(self) -> None: ...


class OwnedGateway(Gateway, Protocol):
    async def open(self) -> None:
        """Raises Unavailable."""

    async def close(self) -> None: ...


class Networks:
    """
    Where the helpers cannot be started, machines without network device run all the same.

    Args:
        ready: How many namespaces to keep ready.
    """

    def __init__(self, namespaces: OwnedNamespaces, gateway: OwnedGateway, *, ready: int) -> None:
        self._namespaces = namespaces
        self._gateway = gateway
        self._pool = NamespacePool(namespaces, target=ready)
        self._filling: asyncio.Task[None] | None = None
        self._missing: str | None = "it was not started yet"

    async def open(self) -> None:
        """Start the helpers; if they cannot be, `check` says so from then on."""
        try:
            await self._gateway.open()
            await self._namespaces.close(await self._namespaces.create())
        except Unavailable as error:
            self._missing = error.detail
            log.warning("no networks for sandboxes", why=error.detail, context=dict(error.context))
            return
        self._missing = None
        self._filling = asyncio.create_task(self._pool.run(), name="namespaces")

    async def close(self) -> None:
        """`records` ends when all are taken."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
        await self._gateway.close()
        await self._namespaces.aclose()

    def check(self) -> None:
        """Raises Unavailable when no machine can have a network here."""
        if self._missing is not None:
            raise Unavailable(
                "This server cannot give sandboxes a network: use network 'off', or let its operator see what `terpd"
                " doctor` says and start it again",
                context={"why": self._missing},
            )

    async def plug(self) -> Nic:
        """A device for a new machine. Raises Unavailable."""
        self.check()
        return Nic(await self._pool.take(), self._namespaces, self._gateway)

    async def adopt(self, process: Process, tap: int) -> Nic:
        """
        The device of a machine that outlived its daemon.

        Args:
            tap: Number of its descriptor in the monitor.

        Raises:
            Unavailable: The monitor has no such descriptor any more, or the helpers are away.
        """
        self.check()
        try:
            ours = process.descriptor(tap)
        except OSError as error:
            raise Unavailable("The network device of a machine is lost", context={"why": str(error)}) from error
        try:
            sockets = await self._namespaces.adopt(ours)
        except BaseException:
            os.close(ours)
            raise
        return Nic(sockets, self._namespaces, self._gateway)

    def records(self) -> AsyncIterator[Sequence[EgressRecord]]:
        return self._gateway.records()
