"""Forks: all children or none, whatever fails."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT

from terpd.control.files import FileToWrite
from terpd.control.fork import ForkRequest
from terpd.model.errors import (
    CapacityUnavailable,
    GuestFault,
    InvalidRequest,
    PlanLimit,
    StateConflict,
    StorageFull,
    TerpError,
    Unavailable,
)
from terpd.model.ports import MachineSpec
from terpd.model.sandbox import EndReason, OnTimeout, Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, dataclasses.replace(POLICY, max_fork=4)) as world:
        yield world


async def nothing_is_left(world: Controlled) -> bool:
    """No snapshot's record, and after a collection no state."""
    await world.services.collector.collect()
    return not world.node.states and not await world.store.snapshots_on_node("node-a")


async def test_children_go_on_where_the_source_is(world: Controlled) -> None:
    """Each has its files, env over its own, a key of its own and what was asked for; nothing of the fork is left."""
    source = await world.create(env={"A": "1", "B": "2"}, metadata={"of": "source"})
    await world.services.files.write(TENANT, source.id, FileToWrite("/workspace/a", b"1"))
    request = ForkRequest(3, 60, OnTimeout.PAUSE, auto_resume=True, env={"B": "3"}, metadata={"of": "fork"})
    forked = await world.services.fork(TENANT, source.id, request)
    assert len(forked.children) == 3
    for child in forked.children:
        assert (child.status, child.lease_s, child.on_timeout) == (Status.RUNNING, 60, OnTimeout.PAUSE)
        assert (child.auto_resume, child.metadata, child.snapshot) == (True, {"of": "fork"}, forked.saved.id)
        assert await world.services.files.read(TENANT, child.id, "/workspace/a") == b"1"
        assert [(await world.run(child.id, f"env {name}")).stdout for name in "AB"] == [b"1", b"3"]
    assert len({machine.spec.key for machine in world.node.machines.values()}) == 4
    assert (await world.run(source.id, "env B")).stdout == b"2"
    assert await world.services.snapshots.list(TENANT) == []
    assert await nothing_is_left(world)


@pytest.mark.parametrize("count", [0, 5, -1])
async def test_how_many(world: Controlled, count: int) -> None:
    """As many as the server allows."""
    source = await world.create()
    with pytest.raises(InvalidRequest, match="count must be 1 to 4"):
        await world.services.fork(TENANT, source.id, ForkRequest(count))


async def test_plan_with_room_for_some(world: Controlled) -> None:
    """None is created, and the source is not even stopped for it."""
    source, _ = await world.create(), await world.create()
    with pytest.raises(PlanLimit):
        await world.services.fork(TENANT, source.id, ForkRequest(4))
    assert len(await world.all()) == 2
    assert not world.node.capturing.is_set()
    assert await nothing_is_left(world)


async def test_node_with_room_for_some(world: Controlled) -> None:
    """None is created; those that were started are stopped."""
    source = await world.create()
    world.node.machines_cap = 3
    with pytest.raises(CapacityUnavailable):
        await world.services.fork(TENANT, source.id, ForkRequest(4))
    assert [sandbox.id for sandbox in await world.all()] == [source.id]
    assert list(world.node.machines) == [source.id]
    assert await nothing_is_left(world)


async def test_source_that_cannot_be_saved(world: Controlled) -> None:
    """None is created, and the source runs on."""
    source = await world.create()
    world.node.capture_error = StorageFull("full")
    with pytest.raises(StorageFull):
        await world.services.fork(TENANT, source.id, ForkRequest(2))
    assert [sandbox.status for sandbox in await world.all()] == [Status.RUNNING]
    assert await nothing_is_left(world)


@pytest.fixture
def fails_one(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second child that is started does not come up."""
    start_machine = world.node.start_machine
    starts: list[MachineSpec] = []

    async def one_fails(spec: MachineSpec) -> None:
        starts.append(spec)
        if spec.fork and len([start for start in starts if start.fork]) == 2:
            raise GuestFault("it did not wake")
        await start_machine(spec)

    monkeypatch.setattr(world.node, "start_machine", one_fails)


@pytest.mark.usefixtures("fails_one")
async def test_child_that_does_not_come_up(world: Controlled) -> None:
    """All are stopped and recorded as failed."""
    source = await world.create()
    with pytest.raises(GuestFault, match="did not wake"):
        await world.services.fork(TENANT, source.id, ForkRequest(3))
    children = [sandbox for sandbox in await world.all() if sandbox.id != source.id]
    assert [(c.status, c.end_reason) for c in children] == [(Status.FAILED, EndReason.START_FAILED)] * 3
    assert list(world.node.machines) == [source.id]
    assert await nothing_is_left(world)


@pytest.mark.usefixtures("fails_one")
async def test_children_that_cannot_be_stopped(world: Controlled) -> None:
    """They are left to the sweep, which stops them before it says that they failed."""
    source = await world.create()
    world.node.stop_error = Unavailable("it does not die")
    with pytest.raises(GuestFault):
        await world.services.fork(TENANT, source.id, ForkRequest(3))
    children = [sandbox.id for sandbox in await world.all() if sandbox.id != source.id]
    assert [await world.status(child) for child in children] == [Status.STARTING] * 3
    world.node.stop_error = None
    await world.services.reconcile.sweep()
    assert [await world.status(child) for child in children] == [Status.FAILED] * 3
    assert list(world.node.machines) == [source.id]


async def test_child_terminated_while_it_starts(world: Controlled) -> None:
    """Then there are no others either."""
    source = await world.create()
    world.node.starting.clear()
    world.node.start_gate.clear()
    forking = asyncio.create_task(world.services.fork(TENANT, source.id, ForkRequest(2)))
    await world.node.starting.wait()
    child = next(sandbox for sandbox in await world.all() if sandbox.id != source.id)
    await world.services.terminate(TENANT, child.id)
    world.node.start_gate.set()
    with pytest.raises(StateConflict):
        await forking
    others = [sandbox for sandbox in await world.all() if sandbox.id not in (source.id, child.id)]
    assert [sandbox.status for sandbox in others] == [Status.FAILED]
    assert list(world.node.machines) == [source.id]


async def test_sweep_and_collection_leave_a_fork_alone(world: Controlled) -> None:
    """Both while the source is saved and while the children start."""
    source = await world.create()
    world.node.capture_gate.clear()
    forking = asyncio.create_task(world.services.fork(TENANT, source.id, ForkRequest(2)))
    await world.node.capturing.wait()
    assert await world.services.reconcile.sweep() == {}
    await world.services.collector.collect()
    world.node.starting.clear()
    world.node.start_gate.clear()
    world.node.capture_gate.set()
    await world.node.starting.wait()
    assert await world.services.reconcile.sweep() == {}
    await world.services.collector.collect()
    world.node.start_gate.set()
    assert [child.status for child in (await forking).children] == [Status.RUNNING] * 2


async def test_record_that_cannot_be_dropped(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork has succeeded; the sweep drops it."""
    source = await world.create()

    async def away(*_args: object, **_options: object) -> bool:
        raise Unavailable("the store is away")

    monkeypatch.setattr(world.store, "delete_snapshot", away)
    forked = await world.services.fork(TENANT, source.id, ForkRequest(1))
    monkeypatch.undo()
    assert not await nothing_is_left(world)
    await world.services.reconcile.sweep()
    assert await nothing_is_left(world)
    assert (await world.run(forked.children[0].id, "echo on")).stdout == b"on\n"


@pytest.mark.parametrize("error", [InvalidRequest, PlanLimit])
async def test_bounds_of_leases(tmp_path: Path, error: type[TerpError]) -> None:
    """As of a create."""
    policy = dataclasses.replace(POLICY, max_running_lifetime_s=100)
    async with controlled(tmp_path / "other", policy) as world:
        source = await world.create(timeout_s=100)
        with pytest.raises(error):
            await world.services.fork(TENANT, source.id, ForkRequest(1, 5 if error is InvalidRequest else 101))
