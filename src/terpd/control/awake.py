"""Who uses a sandbox's guest asks here first: one that is paused and may wake by itself is resumed."""

from __future__ import annotations

import asyncio
import datetime as dt

from terpd.control.at_work import AtWork
from terpd.control.clock import Clock
from terpd.control.resume import ResumeSandbox
from terpd.model.errors import DeadlineExceeded
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Store
from terpd.model.sandbox import Sandbox, Status, require_running

SETTLES_S = 60.0  # a pause writes all that changed, a resume reads it: seconds a gigabyte
LOOK_S = 1.0  # for a change that nobody in this process makes


class Awake:
    def __init__(self, store: Store, resume: ResumeSandbox, at_work: AtWork, clock: Clock) -> None:
        self._store = store
        self._resume = resume
        self._at_work = at_work
        self._clock = clock

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        """
        Return the sandbox once it runs: with `auto_resume`, after a pause has ended and a resume has succeeded.

        Raises:
            SandboxNotFound.
            StateConflict: It does not run, and does not wake by itself.
            DeadlineExceeded: It was being paused or resumed for longer than a minute.
            TerpError: As resuming raises.
        """
        until = self._clock.now() + dt.timedelta(seconds=SETTLES_S)
        while True:
            sandbox = await self._store.get_sandbox(tenant, sandbox_id)
            if not sandbox.auto_resume or sandbox.status not in (Status.PAUSING, Status.PAUSED, Status.RESUMING):
                require_running(sandbox)
                return sandbox
            done = self._at_work.done(sandbox_id)
            if sandbox.status is Status.PAUSED and done is None:
                return await self._resume(tenant, sandbox_id)
            if self._clock.now() >= until:
                raise DeadlineExceeded(f"Sandbox {sandbox_id} is still {sandbox.status} after {SETTLES_S:.0f} s")
            await self._clock.wait(done or asyncio.Event(), LOOK_S)
