"""Set a sandbox's lease anew: so many seconds from now, not added to what is left."""

from __future__ import annotations

import datetime as dt

from terpd.control.checks import check_lease
from terpd.control.clock import Clock
from terpd.control.leases import Leases
from terpd.control.policy import Policy
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Store
from terpd.model.sandbox import Sandbox


class RenewLease:
    def __init__(self, store: Store, policy: Policy, clock: Clock, leases: Leases) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._leases = leases

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId, timeout_s: int) -> Sandbox:
        """
        Raises:
            InvalidRequest: *timeout_s* is not within 10 and the server's maximum.
            SandboxNotFound.
            StateConflict: The sandbox does not run.
        """
        check_lease(timeout_s, maximum=self._policy.max_timeout_s)
        expires_at = self._clock.now() + dt.timedelta(seconds=timeout_s)
        sandbox = await self._store.set_lease(tenant, sandbox_id, expires_at)
        self._leases.notice(expires_at)
        return sandbox
