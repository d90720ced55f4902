"""Leases end when they should, with a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import KEYS, POLICY
from support.clock import FakeClock
from support.sandboxes import TENANT, make_sandbox
from support.simulated_node import SimulatedNode
from support.until import until

from terpd.control.create import CreateRequest
from terpd.control.services import Services
from terpd.model.errors import GuestFault
from terpd.model.ids import SandboxId
from terpd.model.ports import Change, SandboxFilter
from terpd.model.sandbox import EndReason, Sandbox, Status
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
    return Services(store, node, POLICY, KEYS, clock)


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
    async with Services(store, node, POLICY, KEYS, clock).running():
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
