"""
Pause a sandbox: record PAUSING → save the machine → record PAUSED → stop the machine.

Until PAUSED is recorded the machine is what counts: a pause that fails leaves the sandbox running. Dying before leaves
PAUSING, and the next start lets the machine run on, or, if it is gone, sees whether the state was saved. Dying after
leaves a machine that holds still, which the next start stops.
"""

from __future__ import annotations

import datetime as dt

import structlog

from terpd.control.alarm import Alarm
from terpd.control.at_work import AtWork
from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.ended import explaining_end
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.undo import undo
from terpd.model.errors import StateConflict, StateMismatch, TerpError
from terpd.model.ids import SandboxId, TenantId, new_state_id
from terpd.model.ports import Change, Node, StateRef, Store
from terpd.model.sandbox import Sandbox, Status, require_running
from terpd.model.snapshot import SavedState
from terpd.sealing.keyring import KeyRing

RETRY_S = 60  # of lease for a sandbox that could not be paused at its lease's end

_log = structlog.get_logger(__name__)


class PauseSandbox:
    def __init__(
        self,
        store: Store,
        node: Node,
        policy: Policy,
        keys: KeyRing,
        clock: Clock,
        alarm: Alarm,
        at_work: AtWork,
        collector: Collector,
        shielded: Shielded,
    ) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._keys = keys
        self._clock = clock
        self._alarm = alarm
        self._at_work = at_work
        self._collector = collector
        self._shielded = shielded

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId) -> SavedState:
        """
        Pause at its owner's wish. On return its state is saved and its machine gone.

        Commands under way are cut off from who reads them, and go on when the sandbox is resumed. If the caller goes
        away, the pause is finished all the same.

        Raises:
            SandboxNotFound.
            StateConflict: It does not run, or something else is being done with it, or it ended meanwhile.
            SnapshotCap: The tenant has all the paused sandboxes that it may have.
            StorageFull, Unavailable, GuestFault, DeadlineExceeded, StateMismatch: It was not paused, and runs on.
        """
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        if sandbox.status is Status.PAUSED:
            raise StateConflict(f"Sandbox {sandbox_id} is paused already", fields={"status": str(sandbox.status)})
        require_running(sandbox)
        saved = await self._shielded.run(self._pause(sandbox))
        if saved is None:
            require_running(await self._store.get_sandbox(tenant, sandbox_id))
            raise StateConflict(f"Sandbox {sandbox_id} changed its state meanwhile; try again")
        return saved

    async def at_deadline(self, sandbox: Sandbox, now: dt.datetime) -> SavedState | None:
        """
        Pause any tenant's sandbox whose lease has ended by *now*. One that cannot be paused runs on for a minute.

        Returns None if its lease was renewed, or it does not run any more. Raises as a call does.
        """
        return await self._pause(sandbox, expired_by=now)

    async def _pause(self, sandbox: Sandbox, *, expired_by: dt.datetime | None = None) -> SavedState | None:
        state_id = new_state_id()
        with self._at_work.claim(sandbox.id, "being paused"):
            async with self._collector.capturing(state_id):
                change = Change(
                    expected=Status.RUNNING,
                    state_id=state_id,
                    max_saved=self._policy.max_snapshots,
                    expired_by=expired_by,
                )
                pausing = await self._store.set_status(sandbox.id, Status.PAUSING, at=self._clock.now(), change=change)
                if pausing is None:
                    return None
                async with explaining_end(self._store, sandbox.tenant, sandbox.id, "while it was being paused"):
                    try:
                        key = unwrap_key(self._keys, sandbox)
                        saved = await self._node.pause_machine(sandbox.id, key=key, into=StateRef(state_id, key))
                    except Exception as error:
                        await undo(error, self._run_on(sandbox.id, again=expired_by is not None))
                        raise
                    # A failure of the store from here on leaves PAUSING, and both machine and state, to the sweep.
                    await self._record(sandbox.id, saved)
            await self._stop(sandbox.id)
        return saved

    async def _record(self, sandbox_id: SandboxId, saved: SavedState) -> None:
        now = self._clock.now()
        kept_s = self._policy.max_paused_s
        paused = await self._store.set_status(
            sandbox_id,
            Status.PAUSED,
            at=now,
            change=Change(
                expected=Status.PAUSING,
                stored_bytes=saved.stored_bytes,
                paused_expires_at=None if kept_s is None else now + dt.timedelta(seconds=kept_s),
            ),
        )
        if paused is None:
            await self._node.stop_machine(sandbox_id)
            self._collector.soon()
            raise StateConflict(f"Sandbox {sandbox_id} ended while it was being paused")
        self._alarm.notice(paused.paused_expires_at)

    async def _run_on(self, sandbox_id: SandboxId, *, again: bool) -> None:
        """Its lease continues; one that had ended goes on for a while, so that the pause is tried *again*."""
        now = self._clock.now()
        expires_at = now + dt.timedelta(seconds=RETRY_S) if again else None
        running = await self._store.set_status(
            sandbox_id, Status.RUNNING, at=now, change=Change(expected=Status.PAUSING, expires_at=expires_at)
        )
        if running is not None:
            self._alarm.notice(running.expires_at)

    async def _stop(self, sandbox_id: SandboxId) -> None:
        try:
            await self._node.stop_machine(sandbox_id)
        except TerpError as error:  # it holds still, and the next sweep stops it
            _log.warning("stop_failed", sandbox_id=sandbox_id, error=error.code, context=error.context)


def unwrap_key(keys: KeyRing, sandbox: Sandbox) -> bytes:
    """
    Raises:
        StateMismatch: The sandbox has no data key any more, or the server's key that wrapped it is not here.
    """
    if sandbox.sealed_key is None:
        raise StateMismatch(f"Sandbox {sandbox.id} has no data key; it can be neither saved nor resumed")
    return keys.unwrap(sandbox.sealed_key, sandbox.id)
