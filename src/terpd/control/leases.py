"""
The reaper: ends or pauses each sandbox whose lease is over, and ends each whose time as a paused one is.

It keeps no list of its own. It asks the store for what is due and for the next end, and sleeps until then; who sets
an earlier end wakes it. So leases survive a restart, and those that ended meanwhile are due at once.
"""

from __future__ import annotations

import asyncio
import datetime as dt

import structlog

from terpd.control.alarm import Alarm
from terpd.control.clock import Clock
from terpd.control.pause import PauseSandbox
from terpd.control.shielded import Shielded
from terpd.control.terminate import TerminateSandbox
from terpd.model.errors import SnapshotCap, TerpError
from terpd.model.ids import SandboxId
from terpd.model.ports import Store
from terpd.model.sandbox import EndReason, OnTimeout, Sandbox, Status

LONGEST_SLEEP_S = 60.0  # the wall clock may be set while we sleep
SHORTEST_SLEEP_S = 0.05  # many leases that end one after the other cost a query each 50 ms at most
RETRY_S = 1.0  # after something failed
AT_ONCE = 8  # machines stopped at the same time when many leases end together

_log = structlog.get_logger(__name__)


class Leases:
    def __init__(
        self,
        store: Store,
        terminate: TerminateSandbox,
        pause: PauseSandbox,
        clock: Clock,
        alarm: Alarm,
        shielded: Shielded,
        node_id: str,
    ) -> None:
        self._store = store
        self._terminate = terminate
        self._pause = pause
        self._clock = clock
        self._alarm = alarm
        self._shielded = shielded
        self._node_id = node_id
        self._pausing: set[SandboxId] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._alarm.clear()
            shortest_s = SHORTEST_SLEEP_S
            now = self._clock.now()
            until = now + dt.timedelta(seconds=LONGEST_SLEEP_S)
            try:
                if not await self.end_due():
                    shortest_s = RETRY_S
                until = min(await self._store.next_expiry(self._node_id) or until, until)
            except TerpError as error:
                _log.warning("leases_unreadable", error=error.code, context=error.context)
                until = now + dt.timedelta(seconds=RETRY_S)
            await self._alarm.sleep(until, shortest_s=shortest_s)

    async def end_due(self) -> bool:
        """
        End every sandbox whose time is over, and begin to pause those that are to be paused then.

        Returns whether nothing is left that is due.
        """
        now = self._clock.now()
        turns = asyncio.Semaphore(AT_ONCE)
        ends = []
        all_done = True
        for sandbox in await self._store.expired_sandboxes(self._node_id, now):
            if sandbox.status is Status.PAUSED:
                ends.append(self._end(sandbox, EndReason.PAUSED_TOO_LONG, now, turns))
            elif sandbox.on_timeout is OnTimeout.KILL:
                ends.append(self._end(sandbox, EndReason.LEASE, now, turns))
            else:  # in the background: writing out what it holds takes its time, and others' leases end meanwhile
                all_done = False
                if sandbox.id not in self._pausing:
                    self._pausing.add(sandbox.id)
                    self._shielded.leave(self._save(sandbox, now))
        return all(await asyncio.gather(*ends)) and all_done

    async def _end(self, sandbox: Sandbox, reason: EndReason, now: dt.datetime, turns: asyncio.Semaphore) -> bool:
        async with turns:
            try:
                ended = await self._terminate.at_deadline(sandbox, reason, now)
            except TerpError as error:  # its end is recorded or will be found again; a machine left over is swept
                _log.warning("lease_end_incomplete", sandbox_id=sandbox.id, error=error.code, context=error.context)
                return False
            if ended:
                _log.info("lease_ended", sandbox_id=sandbox.id, tenant=sandbox.tenant, reason=str(reason))
            return True

    async def _save(self, sandbox: Sandbox, now: dt.datetime) -> None:
        try:
            if await self._pause.at_deadline(sandbox, now) is not None:
                _log.info("lease_ended", sandbox_id=sandbox.id, tenant=sandbox.tenant, reason="paused")
        except SnapshotCap:  # what clients of this API expect of on_timeout: there is no room to keep it
            await self._end(sandbox, EndReason.LEASE, now, asyncio.Semaphore())
        except TerpError as error:  # nothing is lost: it runs on, and is found again
            _log.warning("pause_at_lease_end_failed", sandbox_id=sandbox.id, error=error.code, context=error.context)
        finally:
            self._pausing.discard(sandbox.id)
