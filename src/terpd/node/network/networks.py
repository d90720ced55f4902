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
        self._missing: str | None = None
        self._started = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to start the helpers, which takes half a second; who needs them waits for that."""
        self._running = asyncio.create_task(self._run(), name="networks")

    async def close(self) -> None:
        """`records` ends when all are taken."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        await self._gateway.close()
        await self._namespaces.aclose()

    async def check(self) -> None:
        """Raises Unavailable when no machine can have a network here."""
        await self._started.wait()
        if self._missing is not None:
            raise Unavailable(
                "This server cannot give sandboxes a network: use network 'off', or let its operator see what `terpd"
                " doctor` says and start it again",
                context={"why": self._missing},
            )

    async def plug(self) -> Nic:
        """A device for a new machine. Raises Unavailable."""
        await self.check()
        return Nic(await self._pool.take(), self._namespaces, self._gateway)

    async def adopt(self, process: Process, tap: int) -> Nic:
        """
        The device of a machine that outlived its daemon.

        Args:
            tap: Number of its descriptor in the monitor.

        Raises:
            Unavailable: The monitor has no such descriptor any more, or the helpers are away.
        """
        await self.check()
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

    async def _run(self) -> None:
        try:
            await asyncio.gather(self._gateway.open(), self._try())
        except Exception as error:  # noqa: BLE001  whatever it is, machines without a network do not need this
            context = dict(error.context) if isinstance(error, Unavailable) else {}
            self._missing = str(error) or repr(error)
            log.warning("no networks for sandboxes", why=self._missing, context=context)
            return
        finally:
            self._started.set()
        await self._pool.run()

    async def _try(self) -> None:
        """Make a namespace, to see whether this host lets us."""
        await self._namespaces.close(await self._namespaces.create())

    def records(self) -> AsyncIterator[Sequence[EgressRecord]]:
        return self._gateway.records()
