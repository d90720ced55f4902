"""
The reaper: ends each sandbox whose lease is over.

It keeps no list of its own. It asks the store for what is due and for the next end, and sleeps until then; who sets
an earlier end wakes it. So leases survive a restart, and those that ended meanwhile are due at once.
"""

from __future__ import annotations

import asyncio
import datetime as dt

import structlog

from terpd.control.clock import Clock
from terpd.control.terminate import TerminateSandbox
from terpd.model.errors import TerpError
from terpd.model.ports import Store
from terpd.model.sandbox import EndReason, Sandbox

LONGEST_SLEEP_S = 60.0  # the wall clock may be set while we sleep
SHORTEST_SLEEP_S = 0.05  # many leases that end one after the other cost a query each 50 ms at most
RETRY_S = 1.0  # after something failed
AT_ONCE = 8  # machines stopped at the same time when many leases end together

_log = structlog.get_logger(__name__)


class Leases:
    def __init__(self, store: Store, terminate: TerminateSandbox, clock: Clock, node_id: str) -> None:
        self._store = store
        self._terminate = terminate
        self._clock = clock
        self._node_id = node_id
        self._wake = asyncio.Event()
        self._next: dt.datetime | None = None  # None: being found out, so any new end may be the next

    def notice(self, expires_at: dt.datetime) -> None:
        """A lease now ends at *expires_at*."""
        if self._next is None or expires_at < self._next:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            self._next = None
            try:
                seconds = await self._until_next()
            except TerpError as error:
                _log.warning("leases_unreadable", error=error.code, context=error.context)
                seconds = RETRY_S
            await self._clock.wait(self._wake, seconds)

    async def end_due(self) -> bool:
        """End every sandbox whose lease is over. Returns whether all of them are ended."""
        now = self._clock.now()
        due = await self._store.expired_sandboxes(self._node_id, now)
        turns = asyncio.Semaphore(AT_ONCE)
        return all(await asyncio.gather(*(self._end(sandbox, now, turns) for sandbox in due)))

    async def _until_next(self) -> float:
        all_ended = await self.end_due()
        expires_at = await self._store.next_expiry(self._node_id)
        now = self._clock.now()
        latest = now + dt.timedelta(seconds=LONGEST_SLEEP_S)
        self._next = latest if expires_at is None else min(expires_at, latest)
        return max((self._next - now).total_seconds(), SHORTEST_SLEEP_S if all_ended else RETRY_S)

    async def _end(self, sandbox: Sandbox, now: dt.datetime, turns: asyncio.Semaphore) -> bool:
        async with turns:
            try:
                ended = await self._terminate.end(sandbox.id, EndReason.LEASE, expired_by=now)
            except TerpError as error:  # its end is recorded or will be found again; a machine left over is swept
                _log.warning("lease_end_incomplete", sandbox_id=sandbox.id, error=error.code, context=error.context)
                return False
            if ended:
                _log.info("lease_ended", sandbox_id=sandbox.id, tenant=sandbox.tenant)
            return True
