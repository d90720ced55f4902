"""The record of connections: taken from the node as they end, kept for a while, and read by their tenant."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import structlog

from terpd.control.clock import Clock
from terpd.control.policy import Policy
from terpd.model.errors import InvalidRequest, TerpError, Unavailable
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import EgressFilter, EgressRecord, Traffic
from terpd.model.ports import Node, Store

MAX_PAGE = 1000
PRUNE_EVERY_S = 3600.0
PRUNE_AT_ONCE = 2000  # records a transaction: others write in between
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


class Egress:
    def __init__(self, store: Store, node: Node, policy: Policy, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._kept = dt.timedelta(days=policy.egress_retention_days)
        self._clock = clock
        self._never = asyncio.Event()

    async def list(self, tenant: TenantId, sandbox_id: SandboxId, where: EgressFilter) -> Sequence[EgressRecord]:
        """
        Newest first; those of sandboxes that have ended, too.

        Raises:
            InvalidRequest: The limit is not 1 to 1000.
            SandboxNotFound.
        """
        if not 1 <= where.limit <= MAX_PAGE:
            raise InvalidRequest(f"limit must be 1 to {MAX_PAGE}, not: {where.limit}")
        if where.name is not None:
            where = replace(where, name=where.name.lower().removesuffix("."))
        return await self._store.list_egress(tenant, sandbox_id, where)

    async def traffic(self, tenant: TenantId, sandbox_id: SandboxId) -> Traffic:
        """Raises SandboxNotFound."""
        return await self._store.traffic(tenant, sandbox_id)

    async def record(self) -> None:
        """
        Record what the node tells of. Until cancelled.

        While the store is away nothing more is taken from the node, which bounds what waits.
        """
        while True:
            try:
                async for records in self._node.egress():
                    await self._add(records)
            except TerpError as error:
                _log.warning("egress_unreadable", error=error.code, context=error.context)
            await self._clock.wait(self._never, RETRY_S)

    async def _add(self, records: Sequence[EgressRecord]) -> None:
        while True:
            try:
                await self._store.add_egress(records)
            except Unavailable as error:
                _log.warning("egress_waits", records=len(records), error=error.code, context=error.context)
            except TerpError as error:  # it would be refused again, and those behind it would wait for ever
                _log.error("egress_lost", records=len(records), error=error.code, context=error.context)
                return
            else:
                return
            await self._clock.wait(self._never, RETRY_S)

    async def drain(self) -> None:
        """Record what a node still has that was closed; nobody waits for a store that is away then."""
        async for records in self._node.egress():
            try:
                await self._store.add_egress(records)
            except TerpError as error:
                _log.error("egress_lost", records=len(records), error=error.code, context=error.context)

    async def run_pruning(self) -> None:
        """Remove what is too old, at once and every hour. Until cancelled."""
        while True:
            try:
                await self.prune()
            except TerpError as error:
                _log.warning("prune_failed", error=error.code, context=error.context)
            await self._clock.wait(self._never, PRUNE_EVERY_S)

    async def prune(self) -> int:
        """Return how many records were removed."""
        before = self._clock.now() - self._kept
        removed = 0
        while (found := await self._store.prune_egress(before, limit=PRUNE_AT_ONCE)) > 0:
            removed += found
        return removed
