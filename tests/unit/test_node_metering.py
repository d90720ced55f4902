"""What machines use: counters of a cgroup or a process, summed up over daemons."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from terpd.model.ids import new_sandbox_id
from terpd.model.usage import WINDOW_S, MachineTotal
from terpd.node import metering
from terpd.node.jail.cgroup import CgroupTree, Hierarchy, Usage
from terpd.node.jail.process import Process
from terpd.node.metering import Meter

SANDBOX = new_sandbox_id()
MIB = 1 << 20


@dataclass
class Host:
    """A fake v2 hierarchy with one machine, `m_1`; `clock` is what the meter takes for the time."""

    path: Path
    clock: float = 1000.0

    @property
    def cgroups(self) -> CgroupTree:
        return CgroupTree("x", [Hierarchy(2, self.path / "cgroup", frozenset())])

    def directory(self, machine_id: str) -> Path:
        return self.path / machine_id

    def counts(self, cpu_us: int, memory: int) -> None:
        group = self.path / "cgroup/terp-x/m_1"
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.stat").write_text(f"usage_usec {cpu_us}\n")
        (group / "memory.current").write_text(f"{memory}\n")

    def meter(self) -> Meter:
        return Meter(self)  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "m_1").mkdir()
    host = Host(tmp_path)
    monkeypatch.setattr(metering, "time", SimpleNamespace(monotonic=lambda: host.clock))
    return host


OURS = Process.of(os.getpid())


async def test_samples_and_totals(host: Host) -> None:
    """Cores over the time since the look before; memory times seconds."""
    meter = host.meter()
    host.counts(1_000_000, 10 * MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    host.clock += 2
    host.counts(2_000_000, 20 * MIB)

    await meter.look()

    live = meter.live("m_1")
    assert live is not None
    assert [(each.cores_used, each.memory_bytes) for each in live.samples] == [(0.5, 20 * MIB)]
    assert list(meter.totals()) == [MachineTotal(SANDBOX, "m_1", 2_000_000, 40 * MIB)]


async def test_waiting_is_nobodys(host: Host) -> None:
    """What a warm machine used before it was handed out does not count, also for the next daemon."""
    meter = host.meter()
    host.counts(1_000_000, MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=True)
    host.counts(1_200_000, MIB)
    await meter.look()
    assert list(meter.totals()) == [MachineTotal(SANDBOX, "m_1", 200_000, 0)]
    await meter.keep()
    after = host.meter()
    after.adopt("m_1", SANDBOX, OURS)
    assert list(after.totals()) == [MachineTotal(SANDBOX, "m_1", 200_000, 0)]


async def test_next_daemon_goes_on(host: Host) -> None:
    """Both sums go on, and what was used while no daemon looked is in them; the window begins anew."""
    meter = host.meter()
    host.counts(0, 10 * MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    host.clock += 1
    await meter.look()  # also keeps it
    host.clock += 5
    host.counts(3_000_000, 20 * MIB)

    after = host.meter()
    after.adopt("m_1", SANDBOX, OURS)

    assert list(after.totals()) == [MachineTotal(SANDBOX, "m_1", 3_000_000, 110 * MIB)]
    live = after.live("m_1")
    assert live is not None
    assert live.samples == ()


@pytest.mark.parametrize("kept", [None, "", "[]", '{"at": 1}', '{"cpu_before_us": 0, "memory_byte_s": "x", "at": 1}'])
async def test_kept_figures_that_cannot_be_read(host: Host, kept: str | None) -> None:
    """The sum of memory begins anew; processor time is all there."""
    if kept is not None:
        (host.directory("m_1") / "usage").write_text(kept)
    host.counts(7, MIB)
    meter = host.meter()
    meter.adopt("m_1", SANDBOX, OURS)
    assert list(meter.totals()) == [MachineTotal(SANDBOX, "m_1", 7, 0)]


async def test_end_is_told_once(host: Host) -> None:
    """With what was counted last."""
    meter = host.meter()
    host.counts(0, MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    host.clock += 3
    meter.end("m_1", Usage(500, 0))
    assert meter.live("m_1") is None
    assert list(meter.totals()) == [MachineTotal(SANDBOX, "m_1", 500, 3 * MIB)]
    assert list(meter.totals()) == []


async def test_end_without_cgroup(host: Host) -> None:
    """What was seen last counts; a machine that was never a sandbox's is not told of."""
    meter = host.meter()
    host.counts(300, MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    meter.end("m_1", None)
    meter.end("m_2", Usage(1, 1))
    assert list(meter.totals()) == [MachineTotal(SANDBOX, "m_1", 300, 0)]


async def test_process_where_nothing_is_counted(host: Host) -> None:
    """Without a cgroup the monitor's own figures count."""
    meter = host.meter()
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    host.clock += 1
    await meter.look()
    (total,) = meter.totals()
    assert total.cpu_us > 0  # of this very process
    assert total.memory_byte_s > MIB


async def test_process_that_is_gone(host: Host) -> None:
    """It is passed over until its end is told."""
    meter = host.meter()
    meter.begin("m_1", SANDBOX, Process(2**22 + 1, 0), warm=False)
    await meter.look()
    assert list(meter.totals()) == []
    meter.end("m_1", None)
    assert list(meter.totals()) == [MachineTotal(SANDBOX, "m_1", 0, 0)]


async def test_window_is_bounded(host: Host) -> None:
    """The last minute, whatever was before."""
    meter = host.meter()
    host.counts(0, MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    for second in range(WINDOW_S + 5):
        host.clock += 1
        host.counts(second * 10_000, MIB)
        await meter.look()
    live = meter.live("m_1")
    assert live is not None
    assert len(live.samples) == WINDOW_S


async def test_runs_once_a_second(host: Host) -> None:
    """The loop looks."""
    meter = host.meter()
    host.counts(0, MIB)
    meter.begin("m_1", SANDBOX, OURS, warm=False)
    host.clock += 1
    running = asyncio.create_task(meter.run())
    while not (live := meter.live("m_1")) or not live.samples:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    running.cancel()
