"""
Closes the gap between what is recorded and what runs: at start, once a minute, and whenever a machine ends.

`reconcile_plan` says what is to be done; here it is done. Whatever fails is found again by the next sweep.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import structlog

from terpd.control.alarm import Alarm
from terpd.control.at_work import AtWork
from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.network import Networks
from terpd.control.policy import Policy
from terpd.control.reconcile_plan import Step, plan_reconcile
from terpd.control.resume import resumed_lease
from terpd.control.shielded import Shielded
from terpd.model.errors import TerpError
from terpd.model.ids import SandboxId, StateId
from terpd.model.ports import Change, Node, Store
from terpd.model.sandbox import EndReason, Sandbox, Status
from terpd.model.snapshot import SnapshotStatus

SWEEP_S = 60.0
RETRY_S = 1.0

_log = structlog.get_logger(__name__)


_MACHINE_STAYS = (Step.ADOPT, Step.CONTINUE, Step.UNDO_PAUSE, Step.FINISH_RESUME)


class Reconcile:
    def __init__(
        self,
        store: Store,
        node: Node,
        policy: Policy,
        clock: Clock,
        alarm: Alarm,
        at_work: AtWork,
        collector: Collector,
        shielded: Shielded,
        networks: Networks,
    ) -> None:
        self._networks = networks
        self._store = store
        self._node = node
        self._policy = policy
        self._clock = clock
        self._alarm = alarm
        self._at_work = at_work
        self._collector = collector
        self._shielded = shielded
        self._never = asyncio.Event()

    async def at_start(self) -> Mapping[SandboxId, Step]:
        """
        Adopt, finish, undo, reap and mark before the first request is served. Returns what was planned.

        Raises:
            TerpError: Records or machines cannot be read; the server must not start.
        """
        plan = await self.sweep()
        _log.info("reconciled", **{step.name.lower(): number for step, number in Counter(plan.values()).items()})
        return plan

    async def sweep(self) -> Mapping[SandboxId, Step]:
        """
        Look for what nobody is at work on and nobody finished, while everything runs.

        Raises:
            TerpError: Records or machines cannot be read.
        """
        await self._end_captures()
        with self._at_work.watching() as seen:
            before = await self._store.live_sandboxes(self._node.node_id)
            machines = await self._node.list_machines()
            saved, unknown = await self._saved(before, machines)
            after = await self._store.live_sandboxes(self._node.node_id)
            plan = plan_reconcile(before, machines, after, at_work=seen | unknown, saved=saved)
            recorded = {sandbox.id: sandbox for sandbox in after}
            self._networks.keep_only(recorded.keys() | seen)
        for sandbox_id, step in plan.items():
            sandbox = recorded.get(sandbox_id)
            try:
                if step is not Step.ADOPT:
                    with self._at_work.claim(sandbox_id, "being put in order"):
                        await self._apply(sandbox_id, step, sandbox)
                if sandbox is not None and step in _MACHINE_STAYS:
                    await self._networks.ensure(sandbox)
            except TerpError as error:  # the rest must not wait for one that hangs; the next sweep tries again
                _log.warning(
                    "step_failed", sandbox_id=sandbox_id, step=step.name, error=error.code, context=error.context
                )
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
                    self._shielded.leave(self._lost(sandbox_id))
            except TerpError as error:  # one that is missed here is found by the next sweep
                _log.warning("exits_unreadable", error=error.code, context=error.context)
            await self._clock.wait(self._never, RETRY_S)

    async def _lost(self, sandbox_id: SandboxId) -> None:
        """Its machine has ended. Whoever is at work on the sandbox goes first: it may be saved, or have another."""
        try:
            while True:
                while (done := self._at_work.done(sandbox_id)) is not None:
                    await done.wait()
                if sandbox_id in await self._node.list_machines():
                    return
                if self._at_work.done(sandbox_id) is None:
                    break
            await self._fail(sandbox_id, EndReason.MACHINE_LOST, Status.RUNNING)
        except TerpError as error:
            _log.warning("exit_not_recorded", sandbox_id=sandbox_id, error=error.code, context=error.context)

    async def _end_captures(self) -> None:
        """Snapshots that nobody takes any more, and those of forks that are over."""
        now = self._clock.now()
        found = await self._store.snapshots_on_node(self._node.node_id)
        in_use = self._collector.in_use()
        for snapshot in found:
            if snapshot.id in in_use:
                continue
            if snapshot.for_fork:
                await self._store.delete_snapshot(snapshot.tenant, snapshot.id, at=now)
            elif snapshot.status is SnapshotStatus.CAPTURING:
                why = "The server stopped while the snapshot was taken; take another one"
                await self._store.fail_snapshot(snapshot.id, at=now, error=why)
            else:
                continue
            self._collector.soon()

    async def _saved(
        self, sandboxes: Sequence[Sandbox], machines: Collection[SandboxId]
    ) -> tuple[set[StateId], set[SandboxId]]:
        """Which states of PAUSING sandboxes without a machine are whole, and of which sandboxes that is unknown yet."""
        saved, unknown = set(), set()
        for sandbox in sandboxes:
            if sandbox.status is not Status.PAUSING or sandbox.state_id is None or sandbox.id in machines:
                continue
            try:
                if await self._node.has_state(sandbox.state_id):
                    saved.add(sandbox.state_id)
            except TerpError as error:  # the artifact store is away: a sandbox must not be given up for that
                _log.warning("state_unknown", sandbox_id=sandbox.id, error=error.code, context=error.context)
                unknown.add(sandbox.id)
        return saved, unknown

    async def _apply(self, sandbox_id: SandboxId, step: Step, sandbox: Sandbox | None) -> None:
        match step:
            case Step.STOP:
                await self._node.stop_machine(sandbox_id)
            case Step.FAIL_START:  # stopped first: recorded as final, one that is not awake would be found no more
                await self._node.stop_machine(sandbox_id)
                await self._fail(sandbox_id, EndReason.START_FAILED, Status.STARTING)
            case Step.FAIL_LOST if sandbox is not None:
                await self._fail(sandbox_id, EndReason.MACHINE_LOST, sandbox.status)
            case Step.CONTINUE:
                await self._node.continue_machine(sandbox_id)
            case Step.UNDO_PAUSE:  # first the machine: if it does not wake, the saved state still is on record
                await self._node.continue_machine(sandbox_id)
                await self._move(sandbox_id, Status.RUNNING, Change(expected=Status.PAUSING))
                self._collector.soon()
            case Step.FINISH_PAUSE:
                change = Change(expected=Status.PAUSING, paused_expires_at=self._paused_until())
                await self._move(sandbox_id, Status.PAUSED, change)
            case Step.UNDO_RESUME:
                await self._node.stop_machine(sandbox_id)
                await self._move(sandbox_id, Status.PAUSED, Change(expected=Status.RESUMING))
            case Step.FINISH_RESUME if sandbox is not None:
                expires_at = self._clock.now() + resumed_lease(sandbox, self._policy)
                change = Change(expected=Status.RESUMING, expires_at=expires_at)
                await self._move(sandbox_id, Status.RUNNING, change)
                self._collector.soon()

    async def _move(self, sandbox_id: SandboxId, status: Status, change: Change) -> None:
        moved = await self._store.set_status(sandbox_id, status, at=self._clock.now(), change=change)
        if moved is not None:
            self._alarm.notice(moved.paused_expires_at if status is Status.PAUSED else moved.expires_at)
            _log.info("sandbox_put_in_order", sandbox_id=sandbox_id, tenant=moved.tenant, status=str(status))

    async def _fail(self, sandbox_id: SandboxId, reason: EndReason, expected: Status) -> None:
        change = Change(reason=reason, expected=expected)
        self._networks.credentials.drop(sandbox_id)
        failed = await self._store.set_status(sandbox_id, Status.FAILED, at=self._clock.now(), change=change)
        if failed is not None:
            _log.warning("sandbox_failed", sandbox_id=sandbox_id, tenant=failed.tenant, reason=str(reason))

    def _paused_until(self) -> dt.datetime | None:
        kept_s = self._policy.max_paused_s
        return None if kept_s is None else self._clock.now() + dt.timedelta(seconds=kept_s)
