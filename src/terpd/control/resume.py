"""
Resume a paused sandbox: record RESUMING → start a machine from its state → record RUNNING.

The state stays until RUNNING is recorded, so that whatever fails before leaves the sandbox paused as it was. Dying in
between leaves RESUMING: the next start goes on with a machine that is awake, and reaps anything less.
"""

from __future__ import annotations

import asyncio
import datetime as dt

from terpd.control.alarm import Alarm
from terpd.control.at_work import AtWork
from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.ended import explaining_end
from terpd.control.network import Networks
from terpd.control.pause import unwrap_key
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.undo import undo
from terpd.control.volumes import Volumes
from terpd.model.errors import StateConflict, StateDamaged
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Change, MachineSpec, Node, StateRef, Store
from terpd.model.sandbox import FINAL, Sandbox, Status
from terpd.sealing.keyring import KeyRing


class ResumeSandbox:
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
        networks: Networks,
        volumes: Volumes,
    ) -> None:
        self._volumes = volumes
        self._networks = networks
        self._store = store
        self._node = node
        self._policy = policy
        self._keys = keys
        self._clock = clock
        self._alarm = alarm
        self._at_work = at_work
        self._collector = collector
        self._shielded = shielded
        self._attempts: dict[SandboxId, asyncio.Task[Sandbox]] = {}

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        """
        Return the sandbox in RUNNING, with a lease as long as the one that it had.

        Who comes while it is being resumed shares that attempt. If the caller goes away, it is finished all the same.

        Raises:
            SandboxNotFound.
            StateConflict: It is not paused, or it ended meanwhile.
            PlanLimit: The tenant has all the sandboxes in use that it may have.
            CapacityUnavailable, Unavailable, StorageFull: There is no room for it now; it stays paused.
            StateMismatch, StateDamaged, GuestFault, DeadlineExceeded: It did not come up; it stays paused.
        """
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        attempt = self._attempts.get(sandbox_id)
        if attempt is None:
            require_paused(sandbox)
            attempt = self._attempts[sandbox_id] = self._shielded.begin(self._resume(sandbox))
            attempt.add_done_callback(lambda _: self._attempts.pop(sandbox_id))
        return await self._shielded.join(attempt)

    async def _resume(self, sandbox: Sandbox) -> Sandbox:
        with self._at_work.claim(sandbox.id, "being resumed"):
            change = Change(expected=Status.PAUSED, max_on_node=self._policy.max_concurrent)
            resuming = await self._store.set_status(sandbox.id, Status.RESUMING, at=self._clock.now(), change=change)
            if resuming is None:
                require_paused(await self._store.get_sandbox(sandbox.tenant, sandbox.id))
                raise StateConflict(f"Sandbox {sandbox.id} changed its state meanwhile; try again")
            async with explaining_end(self._store, sandbox.tenant, sandbox.id, "while it was being resumed"):
                try:
                    await self._start(resuming)
                except Exception as error:
                    await undo(error, self._stay_paused(sandbox.id))
                    raise
                # A failure of the store from here on leaves RESUMING to the sweep, which goes on with the machine.
                return await self._record(resuming)

    async def _start(self, sandbox: Sandbox) -> None:
        if sandbox.state_id is None:
            raise StateDamaged(f"Sandbox {sandbox.id} has no saved state")
        key = unwrap_key(self._keys, sandbox)
        volume = await self._volumes.ref_of(sandbox.tenant, sandbox.volume_id)
        await self._node.stop_machine(sandbox.id)  # in case it did not end at the pause
        await self._node.start_machine(
            MachineSpec(
                sandbox_id=sandbox.id,
                template=sandbox.template,
                size=sandbox.size,
                key=key,
                state=StateRef(sandbox.state_id, key),
                network=self._networks.spec(sandbox),
                volume=volume,
            )
        )

    async def _record(self, sandbox: Sandbox) -> Sandbox:
        now = self._clock.now()
        change = Change(expected=Status.RESUMING, expires_at=now + resumed_lease(sandbox, self._policy))
        running = await self._store.set_status(sandbox.id, Status.RUNNING, at=now, change=change)
        self._collector.soon()
        if running is None:
            await self._node.stop_machine(sandbox.id)
            raise StateConflict(f"Sandbox {sandbox.id} ended while it was being resumed")
        self._alarm.notice(running.expires_at)
        return running

    async def _stay_paused(self, sandbox_id: SandboxId) -> None:
        paused = await self._store.set_status(
            sandbox_id, Status.PAUSED, at=self._clock.now(), change=Change(expected=Status.RESUMING)
        )
        if paused is not None:
            self._alarm.notice(paused.paused_expires_at)


def resumed_lease(sandbox: Sandbox, policy: Policy) -> dt.timedelta:
    """The lease that a resume begins."""
    longest = policy.max_running_lifetime_s
    return dt.timedelta(seconds=sandbox.lease_s if longest is None else min(sandbox.lease_s, longest))


def require_paused(sandbox: Sandbox) -> None:
    """
    Raises:
        StateConflict: The sandbox cannot be resumed; the message says what it is.
    """
    if sandbox.status is Status.PAUSED:
        return
    if sandbox.status in FINAL:
        why = f"is {sandbox.status} ({sandbox.end_reason}); create a new one"
    elif sandbox.status is Status.RUNNING:
        why = "is running already"
    else:
        why = f"is {sandbox.status}; try again when that is done"
    raise StateConflict(f"Sandbox {sandbox.id} {why}", fields={"status": str(sandbox.status)})
