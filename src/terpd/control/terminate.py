"""
End a sandbox: record the end, by which its data key is destroyed → stop the machine.

The record comes first, since it is final: from then on nobody may use the machine, and whoever finds one for this
sandbox reaps it. Dying between the two leaves a machine that the next start, or the next sweep, stops. A saved state
is without use from the moment its key is gone; its files go with the next collection.
"""

from __future__ import annotations

import datetime as dt

from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.credentials import Credentials
from terpd.control.shielded import Shielded
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Change, Node, Store
from terpd.model.sandbox import SAVED, EndReason, Sandbox, Status


class TerminateSandbox:
    def __init__(
        self,
        store: Store,
        node: Node,
        clock: Clock,
        collector: Collector,
        shielded: Shielded,
        credentials: Credentials,
    ) -> None:
        self._credentials = credentials
        self._store = store
        self._node = node
        self._clock = clock
        self._collector = collector
        self._shielded = shielded

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId) -> None:
        """
        Terminate at its owner's wish. On return the machine and all that it held are gone.

        Idempotent, and allowed while commands run (they end with StateConflict), while it starts, is paused or is
        being paused or resumed.

        Raises:
            SandboxNotFound.
            GuestFault, Unavailable: The machine could not be stopped yet; it will be, and repeating is safe.
        """
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        await self._shielded.run(self._end(sandbox, Change(reason=EndReason.USER)))

    async def at_deadline(self, sandbox: Sandbox, reason: EndReason, now: dt.datetime) -> bool:
        """
        End any tenant's sandbox if it still is what *sandbox* says and its time has ended by *now*.

        Returns whether this call was the one that ended it. Raises as a call does.
        """
        return await self._end(sandbox, Change(reason=reason, expired_by=now, expected=sandbox.status))

    async def _end(self, sandbox: Sandbox, change: Change) -> bool:
        ended = await self._store.set_status(sandbox.id, Status.TERMINATED, at=self._clock.now(), change=change)
        if ended is None and change.expected is not None:
            return False
        self._credentials.drop(sandbox.id)
        if _had_states(sandbox):
            self._collector.soon()
        await self._node.stop_machine(sandbox.id)
        return ended is not None


def _had_states(sandbox: Sandbox) -> bool:
    """Whether a state was saved of it, or layers of another's are under its disk."""
    resumed = sandbox.window_began_at != sandbox.started_at
    return sandbox.status in SAVED or sandbox.snapshot is not None or resumed
