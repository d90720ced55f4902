"""
What machines use: a look at each once a second, a window of the last minute, and totals.

The kernel's counters of a machine go on while no daemon looks, so processor time is never lost. Memory is summed up
here, over time, and the sum kept in the machine's directory: a daemon that was killed loses nothing that a machine
used while it was away but for changes within that time.

Where a host does not count by cgroup (see `CgroupTree.enforced`) the monitor's process is looked at instead: its
processor time, and its memory without what it shares with the template.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from terpd.model.ids import SandboxId
from terpd.model.usage import SAMPLE_INTERVAL_S, WINDOW_S, LiveUsage, MachineTotal, UsageSample
from terpd.node.facilities import Facilities
from terpd.node.jail.cgroup import Usage
from terpd.node.jail.process import Process

log = structlog.get_logger()

KEEP_EVERY_S = 10.0
_FILE = "usage"
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME = 11, 12  # of /proc/PID/stat, counted after the name: fields 14 and 15 (proc(5))
_RESIDENT, _SHARED = 1, 2  # of /proc/PID/statm, in pages


@dataclass(frozen=True, slots=True)
class Reading:
    """`at` is monotonic, and the same clock for every daemon since the host's boot."""

    at: float
    cpu_us: int
    memory_bytes: int


@dataclass
class _Metered:
    """
    Attributes:
        cpu_before_us: What it had used before it was its sandbox's.
        last: None until it was looked at.
        kept_at: 0 for not yet.
    """

    machine_id: str
    sandbox_id: SandboxId
    process: Process
    cpu_before_us: int = 0
    memory_byte_s: float = 0.0
    last: Reading | None = None
    kept_at: float = 0.0
    samples: deque[UsageSample] = field(default_factory=lambda: deque(maxlen=WINDOW_S))

    def look(self, reading: Reading, *, live: bool = True) -> None:
        before, self.last = self.last, reading
        if before is None or reading.at <= before.at:
            return
        seconds = reading.at - before.at
        self.memory_byte_s += reading.memory_bytes * seconds
        if live:
            cores = max(reading.cpu_us - before.cpu_us, 0) / 1e6 / seconds
            self.samples.append(UsageSample(dt.datetime.now(dt.UTC), cores, reading.memory_bytes))

    @property
    def total(self) -> MachineTotal:
        cpu_us = max(self.last.cpu_us - self.cpu_before_us, 0) if self.last else 0
        return MachineTotal(self.sandbox_id, self.machine_id, cpu_us, round(self.memory_byte_s))


class Meter:
    """Meters machines from when they are a sandbox's to their end."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities
        self._metered: dict[str, _Metered] = {}
        self._ended: list[MachineTotal] = []

    def begin(self, machine_id: str, sandbox_id: SandboxId, process: Process, *, warm: bool) -> None:
        """It is handed out. *warm*: what it used while it waited is nobody's."""
        metered = _Metered(machine_id, sandbox_id, process)
        metered.last = self._read(machine_id, process)
        if warm and metered.last is not None:
            metered.cpu_before_us = metered.last.cpu_us
        self._metered[machine_id] = metered

    def adopt(self, machine_id: str, sandbox_id: SandboxId, process: Process) -> None:
        """It was another daemon's, which may have kept what it had used."""
        metered = self._metered[machine_id] = _Metered(machine_id, sandbox_id, process)
        try:
            kept = json.loads(self._file(machine_id).read_text())
            metered.cpu_before_us = int(kept["cpu_before_us"])
            metered.memory_byte_s = float(kept["memory_byte_s"])
            metered.last = Reading(float(kept["at"]), 0, 0)
        except (OSError, ValueError, TypeError, KeyError):
            log.warning("usage of a machine not found", machine=machine_id)
        if reading := self._read(machine_id, process):
            metered.look(reading, live=False)

    def end(self, machine_id: str, used: Usage | None) -> None:
        """It has ended; *used* is what its cgroup had counted then."""
        metered = self._metered.pop(machine_id, None)
        if metered is None:
            return
        last = metered.last
        if last is not None:
            cpu_us = used.cpu_usage_us if used is not None and used.cpu_usage_us is not None else last.cpu_us
            metered.look(Reading(time.monotonic(), max(cpu_us, last.cpu_us), last.memory_bytes), live=False)
        self._ended.append(metered.total)

    def live(self, machine_id: str) -> LiveUsage | None:
        metered = self._metered.get(machine_id)
        return None if metered is None else LiveUsage(tuple(metered.samples))

    def totals(self) -> Collection[MachineTotal]:
        """As `Node.usage_totals`."""
        ended, self._ended = self._ended, []
        return [*ended, *(metered.total for metered in self._metered.values() if metered.last is not None)]

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + SAMPLE_INTERVAL_S, loop.time())
            await asyncio.sleep(due - loop.time())
            await self.look()

    async def look(self) -> None:
        """Look at all machines now."""
        metered = list(self._metered.values())
        readings = await asyncio.to_thread(lambda: [self._read(each.machine_id, each.process) for each in metered])
        old = []
        for each, reading in zip(metered, readings, strict=True):
            if reading is None or self._metered.get(each.machine_id) is not each:
                continue  # it has ended meanwhile
            each.look(reading)
            if reading.at - each.kept_at >= KEEP_EVERY_S:
                each.kept_at = reading.at
                old.append(each)
        if old:
            await asyncio.to_thread(self._keep, old)

    async def keep(self) -> None:
        """Keep what is known, for the next daemon."""
        await asyncio.to_thread(self._keep, list(self._metered.values()))

    def _read(self, machine_id: str, process: Process) -> Reading | None:
        """None when it has ended, or nothing can be known of it."""
        cgroup = self._facilities.cgroups.find(machine_id)
        used = Usage(None, None) if cgroup is None else cgroup.usage()
        cpu_us, memory = used.cpu_usage_us, used.memory_bytes
        try:
            if cpu_us is None:
                cpu_us = _cpu_of(process.pid)
            if memory is None:
                memory = _memory_of(process.pid)
        except (OSError, IndexError, ValueError):
            return None
        return Reading(time.monotonic(), cpu_us, memory)

    def _keep(self, those: Collection[_Metered]) -> None:
        for metered in those:
            if metered.last is None:
                continue
            kept = {
                "cpu_before_us": metered.cpu_before_us,
                "memory_byte_s": metered.memory_byte_s,
                "at": metered.last.at,
            }
            file = self._file(metered.machine_id)
            temporary = file.with_name(f".{_FILE}")
            with contextlib.suppress(OSError):  # it is being removed, or the disk is full: the next one is as good
                temporary.write_text(json.dumps(kept))
                os.replace(temporary, file)  # noqa: PTH105  a rename is the point

    def _file(self, machine_id: str) -> Path:
        return self._facilities.directory(machine_id) / _FILE


def _cpu_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_US


def _memory_of(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[_RESIDENT]) - int(fields[_SHARED])) * _PAGE
