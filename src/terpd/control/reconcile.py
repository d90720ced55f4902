"""
Closes the gap between what is recorded and what runs: at start, once a minute, and whenever a machine ends.

                     machine runs                     no machine
    STARTING         stop, FAILED                     FAILED                  (left alone while its create is at work)
    RUNNING          adopt                            FAILED (machine_lost)
    final or none    stop                             -
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from terpd.control.clock import Clock
from terpd.model.errors import TerpError
from terpd.model.ids import SandboxId
from terpd.model.ports import Node, Store
from terpd.model.sandbox import EndReason, Sandbox, Status

SWEEP_S = 60.0
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, each of it repeatable: machines to stop, sandboxes to mark FAILED, sandboxes that go on."""

    stop: Sequence[SandboxId]
    fail: Sequence[tuple[SandboxId, EndReason]]
    adopt: Sequence[SandboxId]


def plan_reconcile(
    before: Sequence[Sandbox],
    machines: Collection[SandboxId],
    after: Sequence[Sandbox],
    *,
    creating: Collection[SandboxId],
) -> Plan:
    """
    Decide from the live sandboxes recorded *before* and *after* the list of running *machines* was taken.

    A machine is lost only if its sandbox ran before the list was taken, and an orphan only if it has no sandbox
    after: so whatever begins or ends meanwhile is left to those who do it. A STARTING sandbox is stale, its create
    dead or its undoing failed, if it was STARTING both times and not among *creating* in between.
    """
    still_starting = {s.id for s in after if s.status is Status.STARTING}
    stale = [s.id for s in before if s.status is Status.STARTING and s.id in still_starting and s.id not in creating]
    ran = [s.id for s in before if s.status is Status.RUNNING]
    recorded = {s.id for s in after}
    orphans = [machine for machine in machines if machine not in recorded]
    return Plan(
        # A stale one may have a machine that is not awake and so not in the list.
        stop=[*stale, *orphans],
        fail=[
            *((sandbox_id, EndReason.START_FAILED) for sandbox_id in stale),
            *(
                (sandbox_id, EndReason.MACHINE_LOST)
                for sandbox_id in ran
                if sandbox_id not in machines and sandbox_id in recorded
            ),
        ],
        adopt=[sandbox_id for sandbox_id in ran if sandbox_id in machines and sandbox_id in recorded],
    )


class Reconcile:
    """
    Args:
        creating: Returns the sandboxes whose create is at work in this process.
    """

    def __init__(self, store: Store, node: Node, clock: Clock, creating: Callable[[], Collection[SandboxId]]) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._creating = creating
        self._never = asyncio.Event()

    async def at_start(self) -> Plan:
        """
        Adopt, reap and mark before the first request is served. Returns what was planned.

        Raises:
            TerpError: Records or machines cannot be read; the server must not start.
        """
        plan = await self._plan()
        await self._apply(plan)
        _log.info("reconciled", adopted=len(plan.adopt), failed=len(plan.fail), stopped=len(plan.stop))
        return plan

    async def sweep(self) -> Plan:
        """Look for machines without a sandbox and sandboxes without a machine, while everything runs."""
        plan = await self._plan()
        await self._apply(plan)
        return plan

    async def run_sweeps(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.wait(self._never, SWEEP_S)
            try:
                await self.sweep()
            except TerpError as error:
                _log.warning("sweep_failed", error=error.code, context=error.context)

    async def watch_exits(self) -> None:
        """Mark the sandbox of each machine that ends by itself as FAILED. Until cancelled."""
        while True:
            try:
                async for sandbox_id in self._node.exits():
                    await self._fail(sandbox_id, EndReason.MACHINE_LOST)
            except TerpError as error:  # one that is missed here is found by the next sweep
                _log.warning("exits_unreadable", error=error.code, context=error.context)
            await self._clock.wait(self._never, RETRY_S)

    async def _plan(self) -> Plan:
        before = await self._store.live_sandboxes(self._node.node_id)
        creating = frozenset(self._creating())
        machines = frozenset(await self._node.list_machines())
        after = await self._store.live_sandboxes(self._node.node_id)
        return plan_reconcile(before, machines, after, creating=creating)

    async def _apply(self, plan: Plan) -> None:
        not_stopped = set()
        for sandbox_id in plan.stop:
            try:
                await self._node.stop_machine(sandbox_id)
            except TerpError as error:  # the rest must not wait for one that hangs; the next sweep tries again
                _log.warning("stop_failed", sandbox_id=sandbox_id, error=error.code, context=error.context)
                not_stopped.add(sandbox_id)
        for sandbox_id, reason in plan.fail:
            if sandbox_id not in not_stopped:  # recorded as final, a machine that is not awake would be found no more
                await self._fail(sandbox_id, reason)

    async def _fail(self, sandbox_id: SandboxId, reason: EndReason) -> None:
        failed = await self._store.set_status(sandbox_id, Status.FAILED, at=self._clock.now(), reason=reason)
        if failed is not None:
            _log.warning("sandbox_failed", sandbox_id=sandbox_id, tenant=failed.tenant, reason=str(reason))
