"""What sandboxes use: taken from the node, added to the record, and read by their tenant."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from terpd.control.clock import Clock
from terpd.model.errors import InvalidRequest, TerpError
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, Store
from terpd.model.sandbox import Sandbox
from terpd.model.usage import MachineTotal, Usage, UsageSample

RECORD_EVERY_S = 10.0  # what is lost when the server is killed as a machine ends
MAX_DAYS = 366

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SandboxUsage:
    """
    Attributes:
        last: The latest sample; None of a sandbox that does not run, or has just begun to.
        samples: Of the last minute.
        lifetime: As recorded: at most 10 s behind.
    """

    sandbox: Sandbox
    at: dt.datetime
    last: UsageSample | None
    samples: Sequence[UsageSample]
    lifetime: Usage


class UsageMeter:
    def __init__(self, store: Store, node: Node, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._never = asyncio.Event()
        self._unrecorded: dict[tuple[SandboxId, str], MachineTotal] = {}
        self._seen_cpu_us: dict[tuple[SandboxId, str], int] = {}
        self._cpu_us = 0

    @property
    def cpu_seconds(self) -> float:
        """Of all machines of this node since the start of this process."""
        return self._cpu_us / 1e6

    async def run(self) -> None:
        """Record every 10 s, until cancelled."""
        self._take(self._node.usage_totals(), adopted=True)
        while True:
            await self._clock.wait(self._never, RECORD_EVERY_S)
            await self.record()

    async def record(self) -> None:
        """What cannot be recorded now is recorded the next time."""
        self._take(self._node.usage_totals())
        recording = dict(self._unrecorded)
        try:
            await self._store.add_usage(list(recording.values()), at=self._clock.now())
        except TerpError as error:
            _log.warning("usage_not_recorded", error=error.code, context=error.context)
            return
        for key, total in recording.items():
            if self._unrecorded.get(key) == total:
                del self._unrecorded[key]

    async def of_sandbox(self, tenant: TenantId, sandbox_id: SandboxId, since: dt.datetime | None) -> SandboxUsage:
        """Only samples after *since*, if it is given. Raises SandboxNotFound."""
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        live = self._node.live_usage(sandbox_id)
        samples = () if live is None else live.samples
        return SandboxUsage(
            sandbox=sandbox,
            at=self._clock.now(),
            last=samples[-1] if samples else None,
            samples=[sample for sample in samples if since is None or sample.at > since],
            lifetime=await self._store.usage(tenant, sandbox_id),
        )

    async def by_day(
        self, tenant: TenantId, since: dt.date | None, until: dt.date | None
    ) -> Sequence[tuple[dt.date, Usage]]:
        """
        Days in UTC, oldest first, both ends included; by default the last 30. Those without use are left out.

        Raises:
            InvalidRequest: *since* is after *until*, or more than `MAX_DAYS` before it, or by default before year 1.
        """
        until = until or self._clock.now().date()
        try:
            since = since or until - dt.timedelta(days=29)
        except OverflowError as error:
            raise InvalidRequest(f"until is too early: {until}; give since as well, or a later day") from error
        if not dt.timedelta(0) <= until - since < dt.timedelta(days=MAX_DAYS):
            raise InvalidRequest(f"since must be a day before until, {MAX_DAYS} days at most, or the same")
        return await self._store.tenant_usage(tenant, since=since, until=until)

    def _take(self, totals: Collection[MachineTotal], *, adopted: bool = False) -> None:
        now = {(total.sandbox_id, total.machine): total for total in totals}
        self._unrecorded |= now
        if not adopted:  # else most of it was used while another process was here
            used = (total.cpu_us - self._seen_cpu_us.get(key, 0) for key, total in now.items())
            self._cpu_us += sum(max(cpu_us, 0) for cpu_us in used)
        self._seen_cpu_us = {key: total.cpu_us for key, total in now.items()}
