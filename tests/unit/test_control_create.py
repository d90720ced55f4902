"""Creates that fail: what they leave, and what a repetition finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import KEYS, POLICY
from support.clock import FakeClock
from support.couriers import SilentCourier
from support.sandboxes import TENANT
from support.simulated_node import SimulatedNode
from support.until import until

from terpd.control.create import CreateRequest, request_digest
from terpd.control.services import Services
from terpd.model.errors import CapacityUnavailable, GuestFault, TerpError, Unavailable
from terpd.model.ids import SandboxId
from terpd.model.ports import Idempotency, MachineSpec, SandboxFilter
from terpd.model.sandbox import Sandbox, Status
from terpd.store import SqliteStore, open_sqlite

ONCE = Idempotency("abc", request_digest(b"the same"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "terp.db")
    yield store
    await store.close()


@pytest.fixture
def node() -> SimulatedNode:
    return SimulatedNode()


@pytest.fixture
def services(store: SqliteStore, node: SimulatedNode) -> Services:
    return Services(store, node, POLICY, KEYS, SilentCourier(), FakeClock())


async def create(services: Services, idempotency: Idempotency | None = None) -> Sandbox:
    planned = await services.create.plan(TENANT, CreateRequest("python-3.12"))
    return await services.create(planned, idempotency=idempotency)


async def statuses(store: SqliteStore) -> list[Status]:
    return [sandbox.status for sandbox in await store.list_sandboxes(TENANT, SandboxFilter())]


async def test_failed_undoing_is_left_to_the_sweep(store: SqliteStore, services: Services, node: SimulatedNode) -> None:
    """A sandbox whose start and whose stop failed counts against its tenant only until its machine is stopped."""
    node.start_error, node.stop_error = GuestFault("lost"), Unavailable("it does not die")
    with pytest.raises(GuestFault, match="lost"):
        await create(services)
    await services.reconcile.sweep()
    assert await statuses(store) == [Status.STARTING]  # its machine may still be there
    node.stop_error = None
    await services.reconcile.sweep()
    assert await statuses(store) == [Status.FAILED]
    assert len(node.stopped) == 1


async def test_sweep_leaves_a_create_alone(store: SqliteStore, services: Services, node: SimulatedNode) -> None:
    """However long it takes."""
    node.start_gate.clear()
    creating = asyncio.create_task(create(services))
    await node.starting.wait()
    await services.reconcile.sweep()
    assert await statuses(store) == [Status.STARTING]
    node.start_gate.set()
    assert (await creating).status is Status.RUNNING


@pytest.mark.parametrize("failure", [CapacityUnavailable("full"), GuestFault("lost")])
async def test_repetition_that_waited_for_a_failed_create_starts_anew(
    store: SqliteStore, services: Services, node: SimulatedNode, failure: TerpError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither gets the failed sandbox nor hears that there is none."""
    fail = asyncio.Event()
    lookups: list[tuple[bytes, SandboxId] | None] = []
    start_machine, find_idempotent = node.start_machine, store.find_idempotent

    async def fails_first(spec: MachineSpec) -> None:
        if not fail.is_set():
            node.starting.set()
            await fail.wait()
            raise failure
        await start_machine(spec)

    async def noted(tenant: object, key: str) -> tuple[bytes, SandboxId] | None:
        lookups.append(await find_idempotent(tenant, key))  # type: ignore[arg-type]
        return lookups[-1]

    monkeypatch.setattr(node, "start_machine", fails_first)
    monkeypatch.setattr(store, "find_idempotent", noted)
    first = asyncio.create_task(create(services, ONCE))
    await node.starting.wait()
    second = asyncio.create_task(create(services, ONCE))
    await until(lambda: len(lookups) == 2)
    fail.set()
    with pytest.raises(type(failure)):
        await first
    sandbox = await second
    assert sandbox.status is Status.RUNNING
    assert list(node.machines) == [sandbox.id]
