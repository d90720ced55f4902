"""Pause, resume, live snapshots and forks against their floors, by megabytes of guest memory that were written to."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from terp import AsyncSandbox, AsyncTerp

from bench.bare import private_mib
from bench.rows import Row, at_most

DIRTY_MB = (0, 50, 200)
CHILDREN = (1, 10, 20)
_MEMORY_MB_PER_MS = 1.0  # what the promise allows a resume to take for dirty memory: 1 GB/s
_SETTLE_S = 3.0


@dataclass
class Figures:
    """
    What was measured at one amount of memory that a program filled; times in ms.

    `changed_mb` is what then differed from the template: more, where the guest's kernel moved pages about.
    """

    dirty_mb: int
    changed_mb: float = 0.0
    pause: list[float] = field(default_factory=list)
    resume: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    snapshot_stop: list[float] = field(default_factory=list)
    stored_mb: float = 0.0


class States:
    """
    Args:
        bare_ms: Restores a bare clone and returns how long that took, in ms: the floor.
        monitors: The pids of all machines of the server.
    """

    def __init__(
        self,
        client: AsyncTerp,
        template: str,
        rounds: int,
        *,
        bare_ms: Callable[[], Awaitable[float]],
        monitors: Callable[[], Sequence[int]],
    ) -> None:
        self._client = client
        self._template = template
        self._rounds = rounds
        self._bare_ms = bare_ms
        self._monitors = monitors

    async def run(self, full_save_ms: float) -> list[Row]:
        """*full_save_ms*: QEMU's own migration of the whole machine to a file."""
        figures = [await self._measure(dirty_mb) for dirty_mb in DIRTY_MB]
        return [
            *(self._resume_row(each) for each in figures),
            *self._pause_rows(figures, full_save_ms),
            *[await self._fork_row(count) for count in CHILDREN],
        ]

    async def _dirty(self, megabytes: int) -> AsyncSandbox:
        """A sandbox whose memory holds that many megabytes of random bytes: the worst to compress."""
        sandbox = await AsyncSandbox.create(self._template, timeout=3600, client=self._client)
        if megabytes:
            fill = f"head -c {megabytes}M /dev/urandom > /dev/shm/random"
            (await sandbox.exec(fill, timeout=600)).check()
        return sandbox

    async def _measure(self, dirty_mb: int) -> Figures:
        figures = Figures(dirty_mb)
        sandbox = await self._dirty(dirty_mb)
        for number in range(self._rounds + 1):
            bare = await self._bare_ms()
            began = time.monotonic()
            paused_as = await sandbox.pause()
            paused = time.monotonic()
            figures.changed_mb = paused_as.dirty_bytes / 1e6
            await sandbox.resume()
            resumed = time.monotonic()
            snapshot = await sandbox.snapshot()
            await snapshot.delete()
            if number:  # the first of each warms the page cache
                figures.bare.append(bare)
                figures.pause.append((paused - began) * 1000)
                figures.resume.append((resumed - paused) * 1000)
                figures.snapshot_stop.append(snapshot.info.stopped_ms or 0.0)
            figures.stored_mb = (snapshot.info.stored_bytes or 0) / 1e6
        await sandbox.terminate()
        return figures

    @staticmethod
    def _resume_row(figures: Figures) -> Row:
        allowed = figures.changed_mb / _MEMORY_MB_PER_MS
        value, floor = statistics.median(figures.resume), statistics.median(figures.bare)
        goal = 1.3 * floor + allowed
        name = f"resume with {figures.dirty_mb} MB filled, {figures.changed_mb:.0f} MB changed ÷ bare restore"
        return Row(name, value, floor, "ms", "≤ 1.3 + changed at 1 GB/s", value / floor, value <= goal)

    @staticmethod
    def _pause_rows(figures: Sequence[Figures], full_save_ms: float) -> list[Row]:
        changed = [each.changed_mb for each in figures]
        pauses = [statistics.median(each.pause) for each in figures]
        stops = [statistics.median(each.snapshot_stop) for each in figures]
        rows = [
            at_most(1.0, f"pause with {each.dirty_mb} MB dirty ÷ QEMU's own full save", [ms], [full_save_ms], "ms")
            for each, ms in zip(figures, pauses, strict=True)
        ]
        for name, times in (("pause", pauses), ("source's stop for a live snapshot", stops)):
            slope, intercept = statistics.linear_regression(changed, times)
            rows.append(Row(f"{name}: ms + ms per MB changed", intercept, slope, "", "reported", intercept, met=True))
        rows += [
            Row(f"stored for a snapshot with {each.dirty_mb} MB dirty", each.stored_mb, float(each.dirty_mb), "MB",
                "reported", each.stored_mb / max(each.dirty_mb, 1), met=True)
            for each in figures
        ]  # fmt: skip
        return rows

    async def _fork_row(self, count: int) -> Row:
        """Time a child, and private memory of each, of one fork of a source with 50 MB dirty."""
        sandbox = await self._dirty(50)
        floor = await self._bare_ms()
        before = set(self._monitors())
        began = time.monotonic()
        children = await sandbox.fork(count, timeout=3600)
        each_ms = (time.monotonic() - began) * 1000 / count
        await asyncio.sleep(_SETTLE_S)
        memory = statistics.median(private_mib(pid) for pid in set(self._monitors()) - before)
        await asyncio.gather(*(child.terminate() for child in children))
        await sandbox.terminate()
        name = f"fork into {count}, 50 MB dirty: a child, {memory:.0f} MiB private each ÷ bare restore"
        return Row(name, each_ms, floor, "ms", "reported", each_ms / floor, met=True)
