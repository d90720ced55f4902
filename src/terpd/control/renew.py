"""Set a sandbox's lease anew: so many seconds from now, not added to what is left."""

from __future__ import annotations

import datetime as dt

from terpd.control.alarm import Alarm
from terpd.control.checks import check_lease, check_lifetime
from terpd.control.clock import Clock
from terpd.control.policy import Policy
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Store
from terpd.model.sandbox import Sandbox, require_running


class RenewLease:
    def __init__(self, store: Store, policy: Policy, clock: Clock, alarm: Alarm) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._alarm = alarm

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId, timeout_s: int) -> Sandbox:
        """
        Raises:
            InvalidRequest: *timeout_s* is not within 10 and the server's maximum.
            SandboxNotFound.
            StateConflict: The sandbox does not run.
            PlanLimit: It may not run that long in one go.
        """
        check_lease(timeout_s, maximum=self._policy.max_timeout_s)
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        require_running(sandbox)
        now = self._clock.now()
        expires_at = now + dt.timedelta(seconds=timeout_s)
        check_lifetime(
            expires_at, began_at=sandbox.window_began_at or now, maximum_s=self._policy.max_running_lifetime_s
        )
        sandbox = await self._store.set_lease(tenant, sandbox_id, expires_at, lease_s=timeout_s)
        self._alarm.notice(expires_at)
        return sandbox
