"""Named snapshots: taken while the source runs, started from many times, deleted for good."""

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
from terpd.model.errors import (
    InvalidRequest,
    SnapshotCap,
    SnapshotNotFound,
    StateConflict,
    StorageFull,
)
from terpd.model.ids import TenantId, new_state_id
from terpd.model.sandbox import Status
from terpd.model.snapshot import SnapshotStatus


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, dataclasses.replace(POLICY, max_named_snapshots=2)) as world:
        yield world


async def test_sandboxes_start_from_it(world: Controlled) -> None:
    """Each has the source's files and size, its own key and env over the source's; the source runs on."""
    source = await world.create(size="medium", env={"A": "1", "B": "2"})
    await world.services.files.write(TENANT, source.id, FileToWrite("/workspace/a", b"1"))
    snapshot = await world.services.snapshots.create(TENANT, source.id, "after setup")
    assert (snapshot.status, snapshot.name, snapshot.source) == (SnapshotStatus.READY, "after setup", source.id)
    await world.services.terminate(TENANT, source.id)
    for _ in range(2):
        child = await world.create(snapshot=snapshot.id, env={"B": "3"}, timeout_s=30)
        assert (child.template, child.size, child.snapshot) == (source.template, source.size, snapshot.id)
        assert child.lease_s == 30
        assert await world.services.files.read(TENANT, child.id, "/workspace/a") == b"1"
        assert [(await world.run(child.id, f"env {name}")).stdout for name in "AB"] == [b"1", b"3"]
        assert world.node.machines[child.id].spec.fork
    assert len({machine.spec.key for machine in world.node.machines.values()}) == 2


async def test_deleted_one(world: Controlled) -> None:
    """Its key is destroyed with a receipt, its files are collected, those created from it go on. Deleting repeats."""
    source = await world.create()
    snapshot = await world.services.snapshots.create(TENANT, source.id, None)
    child = await world.create(snapshot=snapshot.id)
    await world.services.snapshots.delete(TenantId("other"), snapshot.id)
    assert await world.services.snapshots.list(TENANT) == [snapshot]
    await world.services.snapshots.delete(TENANT, snapshot.id)
    await world.services.snapshots.delete(TENANT, snapshot.id)
    assert [receipt.subject for receipt in await world.services.receipts.list(TENANT)] == [snapshot.id]
    await world.services.collector.collect()
    assert not world.node.states
    assert (await world.run(child.id, "echo on")).stdout == b"on\n"
    with pytest.raises(SnapshotNotFound):
        await world.create(snapshot=snapshot.id)


async def test_cap_of_named_snapshots(world: Controlled) -> None:
    """A third is refused; those of forks and pauses do not count."""
    source = await world.create()
    for _ in range(2):
        await world.services.snapshots.create(TENANT, source.id, None)
    with pytest.raises(SnapshotCap):
        await world.services.snapshots.create(TENANT, source.id, None)
    await world.services.pause(TENANT, source.id)
    limits = await world.services.lookup.limits(TENANT)
    assert (limits.named_snapshots, limits.max_named_snapshots) == (2, 2)


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0b", "\ud800"])
async def test_names(world: Controlled, name: str) -> None:
    """Are for people to read."""
    source = await world.create()
    with pytest.raises(InvalidRequest, match="name"):
        await world.services.snapshots.create(TENANT, source.id, name)


async def test_failed_capture_leaves_no_record(world: Controlled) -> None:
    """And the source runs on."""
    source = await world.create()
    world.node.capture_error = StorageFull("full")
    with pytest.raises(StorageFull):
        await world.services.snapshots.create(TENANT, source.id, None)
    assert await world.services.snapshots.list(TENANT) == []
    assert (await world.run(source.id, "echo on")).stdout == b"on\n"


async def test_deleted_while_it_is_taken(world: Controlled) -> None:
    """Nobody may start from it meanwhile; afterwards there is none."""
    source = await world.create()
    world.node.capture_gate.clear()
    taking = asyncio.create_task(world.services.snapshots.create(TENANT, source.id, None))
    await world.node.capturing.wait()
    (capturing,) = await world.services.snapshots.list(TENANT)
    with pytest.raises(StateConflict, match="wait until it is ready"):
        await world.create(snapshot=capturing.id)
    with pytest.raises(StateConflict, match="being saved as a snapshot"):
        await world.services.pause(TENANT, source.id)
    await world.services.snapshots.delete(TENANT, capturing.id)
    world.node.capture_gate.set()
    with pytest.raises(StateConflict, match="was deleted while it was taken"):
        await taking
    await world.services.collector.collect()
    assert not world.node.states


async def test_sweep_leaves_a_capture_alone(world: Controlled) -> None:
    """It is neither failed nor is its source let run on."""
    source = await world.create()
    world.node.capture_gate.clear()
    taking = asyncio.create_task(world.services.snapshots.create(TENANT, source.id, None))
    await world.node.capturing.wait()
    assert await world.services.reconcile.sweep() == {}
    world.node.capture_gate.set()
    assert (await taking).status is SnapshotStatus.READY


async def test_source_terminated_while_it_is_taken(world: Controlled) -> None:
    """The snapshot is not taken, and says why."""
    source = await world.create()
    world.node.capture_gate.clear()
    taking = asyncio.create_task(world.services.snapshots.create(TENANT, source.id, None))
    await world.node.capturing.wait()
    await world.services.terminate(TENANT, source.id)
    with pytest.raises(StateConflict, match=r"ended \(user\) while its snapshot was taken"):
        await taking
    assert await world.services.snapshots.list(TENANT) == []


async def test_paused_source(world: Controlled) -> None:
    """Is to be resumed first."""
    source = await world.paused()
    with pytest.raises(StateConflict, match="resume it first"):
        await world.services.snapshots.create(TENANT, source.id, None)


async def test_unknown_snapshot_or_both(world: Controlled) -> None:
    """Unknown, another's, not even an id; and not a template as well."""
    for text in (new_state_id(), "../etc", ""):
        with pytest.raises(SnapshotNotFound):
            await world.create(snapshot=text)
    with pytest.raises(InvalidRequest, match="not both"):
        await world.create(template="python-3.12", snapshot=new_state_id())


async def test_snapshot_deleted_while_a_sandbox_starts_from_it(world: Controlled) -> None:
    """Its files stay until the sandbox runs."""
    source = await world.create()
    snapshot = await world.services.snapshots.create(TENANT, source.id, None)
    world.node.start_gate.clear()
    world.node.starting.clear()
    creating = asyncio.create_task(world.create(snapshot=snapshot.id))
    await world.node.starting.wait()
    await world.services.snapshots.delete(TENANT, snapshot.id)
    await world.services.collector.collect()
    world.node.start_gate.set()
    assert (await creating).status is Status.RUNNING
