"""All use cases of one server, wired to one store and one node: what the faces (HTTP, commands) are given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

from terpd.control.clock import Clock, SystemClock
from terpd.control.create import CreateSandbox
from terpd.control.exec import RunCommand
from terpd.control.files import Files
from terpd.control.keys import Keys
from terpd.control.leases import Leases
from terpd.control.lookup import Lookup
from terpd.control.policy import Policy
from terpd.control.reconcile import Reconcile
from terpd.control.renew import RenewLease
from terpd.control.terminate import TerminateSandbox
from terpd.model.ports import Node, Store

DRAIN_S = 10.0  # for creates and terminations under way when the server stops; a restart reaps what is left
RESTART_S = 1.0

_log = structlog.get_logger(__name__)


class Services:
    def __init__(self, store: Store, node: Node, policy: Policy, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.store = store
        self.node = node
        self.terminate = TerminateSandbox(store, node, clock)
        self.leases = Leases(store, self.terminate, clock, node.node_id)
        self.create = CreateSandbox(store, node, policy, clock, self.leases)
        self.renew = RenewLease(store, policy, clock, self.leases)
        self.exec = RunCommand(store, node, policy)
        self.files = Files(store, node)
        self.keys = Keys(store, clock)
        self.lookup = Lookup(store, node, policy)
        self.reconcile = Reconcile(store, node, clock, self.create.under_way)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Reconcile, then watch leases and machines until the end of the block. Serve requests inside of it only.

        Sandboxes live on after the block: the next start adopts them.

        Raises:
            TerpError: Records or machines cannot be read.
        """
        await self.reconcile.at_start()
        tasks = [
            asyncio.create_task(_kept_alive(name, loop), name=name)
            for name, loop in (
                ("leases", self.leases.run),
                ("exits", self.reconcile.watch_exits),
                ("sweeps", self.reconcile.run_sweeps),
            )
        ]
        try:
            yield
        finally:
            await self.create.drain(DRAIN_S)
            await self.terminate.drain(DRAIN_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _kept_alive(name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a loop again that died of a bug: leases must end even then."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - a bug: logged, and the server goes on
            _log.exception("background_loop_died", loop=name)
        await asyncio.sleep(RESTART_S)
