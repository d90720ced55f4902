"""
End a sandbox: record the end → stop the machine.

The record comes first, since it is final: from then on nobody may use the machine, and whoever finds one for this
sandbox reaps it. Dying between the two leaves a machine that the next start, or the next sweep, stops.
"""

from __future__ import annotations

import datetime as dt

from terpd.control.clock import Clock
from terpd.control.shielded import Shielded
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, Store
from terpd.model.sandbox import EndReason, Status


class TerminateSandbox:
    def __init__(self, store: Store, node: Node, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._shielded = Shielded()

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId) -> None:
        """
        Terminate at its owner's wish. On return the machine and all that it held are gone.

        Idempotent, and allowed while commands run (they end with StateConflict) and while it starts.

        Raises:
            SandboxNotFound.
            GuestFault, Unavailable: The machine could not be stopped yet; it will be, and repeating is safe.
        """
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        await self._shielded.run(self.end(sandbox.id, EndReason.USER))

    async def end(self, sandbox_id: SandboxId, reason: EndReason, *, expired_by: dt.datetime | None = None) -> bool:
        """
        End any tenant's sandbox. With *expired_by*, only if its lease has ended by then.

        Returns whether this call was the one that ended it.
        """
        ended = await self._store.set_status(
            sandbox_id, Status.TERMINATED, at=self._clock.now(), reason=reason, expired_by=expired_by
        )
        if ended is None and expired_by is not None:
            return False
        await self._node.stop_machine(sandbox_id)
        return ended is not None

    async def drain(self, seconds: float) -> None:
        await self._shielded.drain(seconds)
