"""Leases end when they should, with a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import KEYS, POLICY
from support.clock import FakeClock
from support.couriers import SilentCourier
from support.sandboxes import TENANT, make_sandbox
from support.simulated_node import SimulatedNode
from support.until import until

from terpd.control.create import CreateRequest
from terpd.control.services import Services
from terpd.model.errors import GuestFault, StorageFull, TerpError, Unavailable
from terpd.model.ids import SandboxId
from terpd.model.ports import Change, SandboxFilter
from terpd.model.sandbox import EndReason, OnTimeout, Sandbox, Status
from terpd.store import SqliteStore, open_sqlite


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "terp.db")
    yield store
    await store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def node() -> SimulatedNode:
    return SimulatedNode()


@pytest.fixture
def services(store: SqliteStore, node: SimulatedNode, clock: FakeClock) -> Services:
    return Services(store, node, POLICY, KEYS, SilentCourier(), clock)


@contextlib.asynccontextmanager
async def reaper(services: Services) -> AsyncIterator[None]:
    task = asyncio.create_task(services.leases.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def create(services: Services, timeout_s: int) -> Sandbox:
    return await services.create(await services.create.plan(TENANT, CreateRequest("python-3.12", timeout_s=timeout_s)))


async def test_lease_ends_at_its_deadline(services: Services, node: SimulatedNode, clock: FakeClock) -> None:
    """One second before, the machine runs; at the deadline it is stopped, and the reason recorded."""
    async with reaper(services):
        sandbox = await create(services, 60)
        clock.advance(59)
        await services.leases.end_due()
        assert sandbox.id in node.machines
        clock.advance(1)
        await until(lambda: sandbox.id not in node.machines)
    ended = await services.lookup.sandbox(TENANT, sandbox.id)
    assert (ended.status, ended.end_reason) == (Status.TERMINATED, EndReason.LEASE)


async def test_earlier_lease_wakes_the_reaper(services: Services, node: SimulatedNode, clock: FakeClock) -> None:
    """Sleeping until a late deadline does not make it miss an earlier one, new or renewed."""
    async with reaper(services):
        late, renewed = await create(services, 50), await create(services, 50)
        early = await create(services, 20)
        await services.renew(TENANT, renewed.id, 10)
        clock.advance(10)
        await until(lambda: renewed.id not in node.machines)
        clock.advance(10)
        await until(lambda: early.id not in node.machines)
        assert late.id in node.machines


async def test_renewed_lease_lives_on(services: Services, node: SimulatedNode, clock: FakeClock) -> None:
    """The old deadline has no effect any more."""
    sandbox = await create(services, 10)
    clock.advance(9)
    await services.renew(TENANT, sandbox.id, 10)
    clock.advance(9)
    await services.leases.end_due()
    assert sandbox.id in node.machines


async def test_leases_that_ended_while_the_server_was_down(
    store: SqliteStore, services: Services, node: SimulatedNode, clock: FakeClock
) -> None:
    """They are due at once; nothing but the records is needed for it."""
    sandbox = await create(services, 10)
    clock.advance(3600)
    async with Services(store, node, POLICY, KEYS, SilentCourier(), clock).running():
        await until(lambda: sandbox.id not in node.machines)


async def test_machine_that_hangs_does_not_keep_others(
    store: SqliteStore, services: Services, node: SimulatedNode, clock: FakeClock
) -> None:
    """A failed stop leaves the sandbox ended and the machine to the next sweep."""
    first, second = await create(services, 10), await create(services, 10)
    clock.advance(10)
    node.stop_error = GuestFault("it does not die")
    assert not await services.leases.end_due()
    assert await store.expired_sandboxes("node-a", clock.now()) == []
    node.stop_error = None
    await services.reconcile.sweep()
    assert set(node.stopped) == {first.id, second.id}


async def test_start_reaps_what_a_crash_left(store: SqliteStore, services: Services, node: SimulatedNode) -> None:
    """After a death in the middle of creates: no machine without a sandbox, no sandbox without a machine."""
    kept = await create(services, 60)
    lost, half = make_sandbox(status=Status.RUNNING), make_sandbox(status=Status.STARTING)
    for sandbox in (lost, half):
        await store.add_sandbox(sandbox, max_live=None)
    orphan = await create(services, 60)
    await store.set_status(orphan.id, Status.TERMINATED, at=orphan.created_at, change=Change(reason=EndReason.USER))
    await services.reconcile.at_start()
    await services.reconcile.at_start()
    found = {s.id: (s.status, s.end_reason) for s in await store.list_sandboxes(TENANT, SandboxFilter())}
    assert found == {
        kept.id: (Status.RUNNING, None),
        lost.id: (Status.FAILED, EndReason.MACHINE_LOST),
        half.id: (Status.FAILED, EndReason.START_FAILED),
        orphan.id: (Status.TERMINATED, EndReason.USER),
    }
    assert list(node.machines) == [SandboxId(kept.id)]


# ---- leases that end with a pause ----


async def create_pausing(services: Services, timeout_s: int) -> Sandbox:
    request = CreateRequest("python-3.12", timeout_s=timeout_s, on_timeout=OnTimeout.PAUSE)
    return await services.create(await services.create.plan(TENANT, request))


async def reaches(services: Services, sandbox_id: SandboxId, status: Status) -> Sandbox:
    while (sandbox := await services.lookup.sandbox(TENANT, sandbox_id)).status is not status:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return sandbox


async def test_lease_that_pauses(services: Services, node: SimulatedNode, clock: FakeClock) -> None:
    """Nothing is terminated; and while one is saved, others' leases end."""
    node.capture_gate.clear()
    async with reaper(services):
        paused, killed = await create_pausing(services, 10), await create(services, 20)
        clock.advance(10)
        await node.capturing.wait()
        clock.advance(10)
        await until(lambda: killed.id not in node.machines)
        node.capture_gate.set()
        await reaches(services, paused.id, Status.PAUSED)
        await until(lambda: not node.machines)


@pytest.mark.parametrize("failure", [StorageFull("full"), Unavailable("away"), GuestFault("odd")])
async def test_lease_that_cannot_pause(
    services: Services, node: SimulatedNode, clock: FakeClock, failure: TerpError
) -> None:
    """It runs on for a minute at a time, until the pause succeeds: nothing is lost."""
    node.capture_error = failure
    async with reaper(services):
        sandbox = await create_pausing(services, 10)
        clock.advance(10)
        while (await services.lookup.sandbox(TENANT, sandbox.id)).expires_at == sandbox.expires_at:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        running = await reaches(services, sandbox.id, Status.RUNNING)
        assert running.expires_at == clock.now() + dt.timedelta(seconds=60)
        node.capture_error = None
        # The loop may be between looking at the clock and waiting by it.
        while (await services.lookup.sandbox(TENANT, sandbox.id)).status is not Status.PAUSED:
            clock.advance(60)
            await asyncio.sleep(0.01)


async def test_lease_that_may_not_pause(store: SqliteStore, node: SimulatedNode, clock: FakeClock) -> None:
    """Without room among the paused ones it is terminated, as with on_timeout 'kill'."""
    services = Services(store, node, dataclasses.replace(POLICY, max_snapshots=0), KEYS, SilentCourier(), clock)
    async with reaper(services):
        sandbox = await create_pausing(services, 10)
        clock.advance(10)
        ended = await reaches(services, sandbox.id, Status.TERMINATED)
        await until(lambda: not node.machines)
    assert ended.end_reason is EndReason.LEASE


async def test_lease_that_ends_during_a_snapshot(services: Services, node: SimulatedNode, clock: FakeClock) -> None:
    """The pause is tried again until the snapshot is taken."""
    node.capture_gate.clear()
    async with reaper(services):
        sandbox = await create_pausing(services, 10)
        taking = asyncio.create_task(services.snapshots.create(TENANT, sandbox.id, None))
        await node.capturing.wait()
        clock.advance(10)
        await asyncio.sleep(0.02)
        node.capture_gate.set()
        await taking
        for _ in range(5):
            clock.advance(1)
            await asyncio.sleep(0.01)
        await reaches(services, sandbox.id, Status.PAUSED)


async def test_lease_that_ended_during_a_pause_that_failed(
    services: Services, node: SimulatedNode, clock: FakeClock
) -> None:
    """The reaper, which slept past it, is told."""
    node.capture_gate.clear()
    node.capture_error = StorageFull("full")
    sandbox = await create(services, 30)
    pausing = asyncio.create_task(services.pause(TENANT, sandbox.id))
    await node.capturing.wait()
    async with reaper(services):
        await asyncio.sleep(0.02)
        clock.advance(40)
        await asyncio.sleep(0.02)
        assert sandbox.id in node.machines
        node.capture_gate.set()
        with pytest.raises(StorageFull):
            await pausing
        await until(lambda: sandbox.id not in node.machines)


async def test_paused_for_too_long(store: SqliteStore, node: SimulatedNode, clock: FakeClock) -> None:
    """It ends, its key is destroyed; one that was resumed in the last moment does not."""
    services = Services(store, node, dataclasses.replace(POLICY, max_paused_s=100), KEYS, SilentCourier(), clock)
    async with reaper(services):
        ends, resumed = await create(services, 10), await create(services, 1000)
        for sandbox in (ends, resumed):
            await services.pause(TENANT, sandbox.id)
        clock.advance(99)
        await services.leases.end_due()
        assert (await services.lookup.sandbox(TENANT, ends.id)).status is Status.PAUSED
        await services.resume(TENANT, resumed.id)
        clock.advance(1)
        ended = await reaches(services, ends.id, Status.TERMINATED)
        assert (ended.end_reason, ended.sealed_key) == (EndReason.PAUSED_TOO_LONG, None)
        assert resumed.id in node.machines


async def test_reaper_hears_of_pauses_and_resumes(store: SqliteStore, node: SimulatedNode, clock: FakeClock) -> None:
    """What they begin may end before what it sleeps for."""
    services = Services(store, node, dataclasses.replace(POLICY, max_paused_s=30), KEYS, SilentCourier(), clock)
    ends, resumed = await create(services, 1000), await create(services, 20)
    await services.pause(TENANT, resumed.id)
    async with reaper(services):
        await asyncio.sleep(0.05)  # it sleeps
        await services.resume(TENANT, resumed.id)
        clock.advance(20)
        await reaches(services, resumed.id, Status.TERMINATED)
        await asyncio.sleep(0.05)
        await services.pause(TENANT, ends.id)
        clock.advance(30)
        await reaches(services, ends.id, Status.TERMINATED)


async def test_pause_that_begins_at_the_deadline(services: Services, node: SimulatedNode, clock: FakeClock) -> None:
    """The owner wants to keep it: it was running when its lease was found to be over, and is not terminated now."""
    node.capture_gate.clear()
    sandbox = await create(services, 10)
    clock.advance(10)
    pausing = asyncio.create_task(services.pause(TENANT, sandbox.id))
    await node.capturing.wait()
    assert not await services.terminate.at_deadline(sandbox, EndReason.LEASE, clock.now())
    node.capture_gate.set()
    await pausing
    await reaches(services, sandbox.id, Status.PAUSED)
