"""Volumes: their life beside that of sandboxes, over a real store and a simulated node."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT
from support.until import until

from terpd.control.create import CreateRequest
from terpd.control.files import FileToWrite
from terpd.control.fork import ForkRequest
from terpd.control.volumes import VolumeRequest
from terpd.model.errors import (
    AlreadyExists,
    CapacityUnavailable,
    GuestFault,
    InvalidRequest,
    PlanLimit,
    StateConflict,
    Unavailable,
    VolumeInUse,
    VolumeNotFound,
)
from terpd.model.ids import TenantId, new_volume_id
from terpd.model.sandbox import Status
from terpd.model.volume import Lifetime, Volume, VolumeStatus
from terpd.model.webhook import Event, EventType


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    policy = dataclasses.replace(POLICY, max_volumes=3)
    async with controlled(tmp_path, policy) as world:
        yield world


async def made(world: Controlled, name: str = "data", **options: object) -> Volume:
    return await world.services.volumes.create(TENANT, VolumeRequest(name, **options))  # type: ignore[arg-type]


async def now(world: Controlled, volume: Volume) -> Volume:
    return await world.services.volumes.get(TENANT, volume.id)


async def names(world: Controlled) -> list[str]:
    return [volume.name for volume in await world.services.volumes.list(TENANT)]


@pytest.mark.parametrize(
    "options",
    [
        {"size_gb": 0.2},
        {"size_gb": 5000.0},
        {"size_gb": 1e308},
        {"region": "elsewhere"},
        {"lifetime": Lifetime(days=1, hours=1)},
        {"lifetime": Lifetime(days=3651)},
        {"lifetime": Lifetime(hours=25)},
        {"lifetime": Lifetime(hours=0)},
        {"name": ""},
        {"name": "x" * 129},
        {"name": " data"},
        {"name": "a\nb"},
        {"name": "vol_data"},
    ],
)
async def test_what_is_out_of_bounds_is_refused(world: Controlled, options: dict[str, object]) -> None:
    """And nothing is recorded."""
    with pytest.raises(InvalidRequest):
        await made(world, **{"name": "data", **options})  # type: ignore[arg-type]
    assert await names(world) == []


async def test_sizes_may_have_fractions(world: Controlled) -> None:
    """In GiB."""
    assert (await made(world, size_gb=0.25)).size_mib == 256
    assert (await made(world, "other", size_gb=1.5)).size_mib == 1536
    with pytest.raises(AlreadyExists):
        await made(world)


async def test_contents_outlive_sandboxes(world: Controlled) -> None:
    """What one sandbox wrote is there for the next; no third one comes between."""
    volume = await made(world)
    first = await world.create(volume="data")
    assert (first.volume, first.volume_id) == ("data", volume.id)
    assert (await now(world, volume)).attached_to == first.id
    await world.services.files.write(TENANT, first.id, FileToWrite("/persist/a", b"1"))
    with pytest.raises(VolumeInUse, match=first.id):
        await world.create(volume=volume.id)
    await world.services.terminate(TENANT, first.id)
    second = await world.create(volume=volume.id)
    assert await world.services.files.read(TENANT, second.id, "/persist/a") == b"1"
    assert (await now(world, volume)).node_id == "node-a"


async def test_a_new_name_makes_a_volume(world: Controlled) -> None:
    """Of 10 GiB; an id that is nobody's makes none, nor does a name that cannot be one."""
    await world.create(volume="by name")
    (volume,) = await world.services.volumes.list(TENANT)
    assert (volume.name, volume.size_mib) == ("by name", 10240)
    with pytest.raises(VolumeNotFound):
        await world.create(volume=new_volume_id())
    with pytest.raises(InvalidRequest):
        await world.create(volume="vol_x")


async def test_two_creates_with_one_new_name(world: Controlled) -> None:
    """Both were planned before there was one: it is made once, and one of them has it."""
    create = world.services.create
    request = CreateRequest(template="python-3.12", volume="data")
    planned = [await create.plan(TENANT, request) for _ in range(2)]
    outcomes = await asyncio.gather(*map(create, planned), return_exceptions=True)
    (refused,) = [each for each in outcomes if isinstance(each, BaseException)]
    assert isinstance(refused, VolumeInUse)
    assert await names(world) == ["data"]


@pytest.mark.parametrize("error", [CapacityUnavailable("full"), GuestFault("dead")])
async def test_a_failed_create_leaves_the_volume_free(world: Controlled, error: Exception) -> None:
    """One that there was is available again, one that was made for it is gone."""
    volume = await made(world)
    world.node.start_error = error
    for name in ("data", "new"):
        with pytest.raises(type(error)):
            await world.create(volume=name)
    assert ((await now(world, volume)).status, await names(world)) == (VolumeStatus.AVAILABLE, ["data"])


async def test_there_may_be_so_many(world: Controlled) -> None:
    """Also by their first mention in a create, of which nothing is left then."""
    for n in range(3):
        await made(world, str(n))
    with pytest.raises(PlanLimit):
        await world.create(volume="one more")
    assert await world.all() == []


async def test_a_paused_sandbox_keeps_its_volume(world: Controlled) -> None:
    """It resumes with the same key on the same disk."""
    volume = await made(world)
    sandbox = await world.paused(volume="data")
    assert (await now(world, volume)).attached_to == sandbox.id
    with pytest.raises(VolumeInUse):
        await world.services.volumes.delete(TENANT, volume.id)
    await world.services.resume(TENANT, sandbox.id)
    spec = world.node.machines[sandbox.id].spec
    assert spec.volume is not None
    assert (spec.volume.id, spec.volume.new) == (volume.id, False)


async def test_no_copy_is_taken_of_a_sandbox_with_a_volume(world: Controlled) -> None:
    """Neither as a snapshot nor as a fork; and none gets a volume that starts from a snapshot."""
    with_one, without = await world.create(volume="data"), await world.create()
    with pytest.raises(InvalidRequest, match="volume"):
        await world.services.snapshots.create(TENANT, with_one.id, None, include_secrets=False)
    with pytest.raises(InvalidRequest, match="volume"):
        await world.services.fork(TENANT, with_one.id, ForkRequest())
    snapshot = await world.services.snapshots.create(TENANT, without.id, None, include_secrets=False)
    with pytest.raises(InvalidRequest, match="volume"):
        await world.create(snapshot=snapshot.id, volume="other")


async def test_delete_destroys_and_removes(world: Controlled) -> None:
    """The key at once, files and record soon after; deleting again is fine."""
    volume = await made(world)
    await world.services.terminate(TENANT, (await world.create(volume="data")).id)
    for _ in range(2):
        await world.services.volumes.delete(TENANT, volume.id)
    assert [receipt.subject for receipt in await world.store.list_receipts(TENANT, subject=volume.id, limit=9)]
    await until(lambda: not world.node.volumes)


async def test_a_deletion_that_broke_off_is_finished(world: Controlled) -> None:
    """By a sweep, once the node can."""
    volume = await made(world)
    await world.services.terminate(TENANT, (await world.create(volume="data")).id)
    world.node.volume_error = Unavailable("away")
    await world.services.volumes.delete(TENANT, volume.id)
    await world.services.volumes.sweep()
    assert volume.id in world.node.volumes
    world.node.volume_error = None
    while await world.store.volumes_on_node("node-a"):
        await world.services.volumes.sweep()
        await asyncio.sleep(0.001)
    assert not world.node.volumes


async def test_one_that_is_extended_while_others_end_stays(world: Controlled) -> None:
    """A sweep goes by what is recorded when it comes to it."""
    volume = await made(world, lifetime=Lifetime(hours=1))
    world.clock.advance(3601)
    listed = world.store.volumes_on_node

    async def and_then_extended(node_id: str) -> Sequence[Volume]:
        found = await listed(node_id)
        await world.services.volumes.set_lifetime(TENANT, volume.id, Lifetime(days=9))
        return found

    world.store.volumes_on_node = and_then_extended  # type: ignore[method-assign]

    await world.services.volumes.sweep()

    assert (await now(world, volume)).status is VolumeStatus.AVAILABLE


async def test_a_move_that_could_not_be_recorded_is_undone(world: Controlled) -> None:
    """By the next sweep, and none that is under way is."""
    volume = await made(world)
    await world.store.set_volume_status(
        volume.id, VolumeStatus.MOVING, expected=VolumeStatus.AVAILABLE, at=world.clock.now()
    )

    await world.services.volumes.sweep()

    assert (await now(world, volume)).status is VolumeStatus.AVAILABLE


async def test_a_lifetime_is_counted_from_the_creation(world: Controlled) -> None:
    """Setting one takes the place of the other, and null keeps it for ever."""
    volume = await made(world, lifetime=Lifetime(days=2))
    assert volume.expires_at == volume.created_at + dt.timedelta(days=2)
    world.clock.advance(3600)
    set_lifetime = world.services.volumes.set_lifetime
    changed = await set_lifetime(TENANT, volume.id, Lifetime(hours=5))
    assert (changed.lifetime_days, changed.lifetime_hours) == (None, 5)
    assert changed.expires_at == volume.created_at + dt.timedelta(hours=5)
    assert (await set_lifetime(TENANT, volume.id, Lifetime())).expires_at is None
    with pytest.raises(InvalidRequest):
        await set_lifetime(TENANT, volume.id, Lifetime(hours=25))


async def test_an_expired_volume_goes_once_nobody_holds_it(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner is told, once."""
    told: list[Event] = []
    monkeypatch.setattr("terpd.store.volumes.tell", lambda _, event: told.append(event))
    volume = await made(world, lifetime=Lifetime(hours=1))
    sandbox = await world.create(volume="data", timeout_s=600)
    world.clock.advance(3600)
    await world.services.volumes.sweep()
    assert ((await now(world, volume)).status, told) == (VolumeStatus.ATTACHED, [])
    await world.services.terminate(TENANT, sandbox.id)
    with pytest.raises(VolumeNotFound, match="over"):
        await world.create(volume="data")
    for _ in range(2):
        await world.services.volumes.sweep()
    assert await names(world) == []
    assert [(event.type, event.data["volume"]["id"]) for event in told] == [(EventType.VOLUME_EXPIRED, volume.id)]


async def test_a_moved_volume_comes_back(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored, its owner is told, and a create fetches it."""
    told: list[Event] = []
    monkeypatch.setattr("terpd.store.volumes.tell", lambda _, event: told.append(event))
    volume = await made(world)
    sandbox = await world.create(volume="data")
    with pytest.raises(VolumeInUse):
        await world.services.volumes.move(TENANT, volume.id, "local")
    await world.services.terminate(TENANT, sandbox.id)
    with pytest.raises(InvalidRequest, match="region"):
        await world.services.volumes.move(TENANT, volume.id, "elsewhere")
    moved = await world.services.volumes.move(TENANT, volume.id, "local")
    assert (moved.status, world.node.checkpoints) == (VolumeStatus.STORED, {volume.id})
    assert [event.type for event in told] == [EventType.VOLUME_MOVED]
    again = await world.create(volume="data")
    assert (again.status, (await now(world, volume)).status) == (Status.RUNNING, VolumeStatus.ATTACHED)


async def test_a_move_that_fails_changes_nothing(world: Controlled) -> None:
    """It can be used as before."""
    volume = await made(world)
    world.node.volume_error = Unavailable("away")
    with pytest.raises(Unavailable):
        await world.services.volumes.move(TENANT, volume.id, "local")
    assert (await now(world, volume)).status is VolumeStatus.AVAILABLE


async def test_a_start_undoes_a_move_that_died(world: Controlled) -> None:
    """And removes what no record knows, but nothing else."""
    volume, other = await made(world), await made(world, "other")
    for name in ("data", "other"):
        await world.services.terminate(TENANT, (await world.create(volume=name)).id)
    await world.store.set_volume_status(
        volume.id, VolumeStatus.MOVING, expected=VolumeStatus.AVAILABLE, at=world.clock.now()
    )
    with pytest.raises(StateConflict, match="moving"):
        await world.create(volume="data")
    world.node.volumes[new_volume_id()] = (b"", {})
    await world.services.volumes.at_start()
    assert (await now(world, volume)).status is VolumeStatus.AVAILABLE
    assert set(world.node.volumes) == {volume.id, other.id}


async def test_a_volume_is_its_tenants(world: Controlled) -> None:
    """Another one's name makes one of its own."""
    volume = await made(world)
    other = TenantId("other")
    assert await world.services.volumes.list(other) == []
    with pytest.raises(VolumeNotFound):
        await world.services.volumes.get(other, volume.id)
    await world.services.volumes.delete(other, volume.id)
    assert await names(world) == ["data"]
