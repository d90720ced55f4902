"""What every Store promises of volumes and of who holds them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from support.sandboxes import NOON, TENANT, make_sandbox
from support.volumes import make_volume

from terpd.model.errors import AlreadyExists, PlanLimit, StateConflict, VolumeInUse, VolumeNotFound
from terpd.model.ids import TenantId, new_volume_id
from terpd.model.ports import Change, Store
from terpd.model.sandbox import EndReason, Sandbox, Status
from terpd.model.volume import Volume, VolumeStatus
from terpd.model.webhook import Event, EventType

OTHER = TenantId("other")
LATER = NOON + dt.timedelta(seconds=5)


async def added(store: Store, **changes: object) -> Volume:
    volume = make_volume(**changes)
    await store.add_volume(volume, max_volumes=100)
    return volume


def holding(volume: Volume, status: Status = Status.STARTING) -> Sandbox:
    return replace(make_sandbox(status=status), volume=volume.name, volume_id=volume.id)


async def status(store: Store, volume: Volume) -> tuple[VolumeStatus, str | None]:
    found = await store.get_volume(TENANT, volume.id)
    return found.status, found.attached_to


async def test_a_volume_is_read_back_as_recorded(store: Store) -> None:
    """By its id and by its name, which is the tenant's own."""
    volume = await added(store, lifetime_days=3, expires_at=LATER, node_id="node-b")
    assert await store.get_volume(TENANT, volume.id) == volume
    assert await store.get_volume(TENANT, volume.name) == volume
    for unknown in (new_volume_id(), "other name"):
        with pytest.raises(VolumeNotFound):
            await store.get_volume(TENANT, unknown)
    for theirs in (volume.id, volume.name):
        with pytest.raises(VolumeNotFound):
            await store.get_volume(OTHER, theirs)


async def test_names_are_unique_in_a_tenant(store: Store) -> None:
    """Another tenant may have the same; a deleted one's is free."""
    volume = await added(store)
    with pytest.raises(AlreadyExists):
        await added(store)
    theirs = await added(store, tenant=OTHER)
    await store.set_volume_status(volume.id, VolumeStatus.DELETING, expected=VolumeStatus.AVAILABLE, at=LATER)
    again = await added(store)
    assert await store.list_volumes(TENANT) == [again]
    assert await store.list_volumes(OTHER) == [theirs]


async def test_a_tenant_has_so_many(store: Store) -> None:
    """One more is refused and not recorded; those that are deleted do not count."""
    first = make_volume(name="first")
    await store.add_volume(first, max_volumes=1)
    with pytest.raises(PlanLimit):
        await store.add_volume(make_volume(name="second"), max_volumes=1)
    await store.set_volume_status(first.id, VolumeStatus.DELETING, expected=VolumeStatus.AVAILABLE, at=LATER)
    await store.add_volume(make_volume(name="second"), max_volumes=1)
    assert [volume.name for volume in await store.list_volumes(TENANT)] == ["second"]


async def test_a_sandbox_holds_it_from_its_create_to_its_end(store: Store) -> None:
    """Also while it is paused; where it runs first is where the volume lives."""
    volume = await added(store)
    sandbox = holding(volume)
    await store.add_sandbox(sandbox, max_live=None)
    assert await status(store, volume) == (VolumeStatus.ATTACHED, sandbox.id)
    assert (await store.get_volume(TENANT, volume.id)).node_id is None
    for step in (Status.RUNNING, Status.PAUSING, Status.PAUSED, Status.RESUMING, Status.RUNNING):
        assert await store.set_status(sandbox.id, step, at=LATER)
        assert await status(store, volume) == (VolumeStatus.ATTACHED, sandbox.id)
    assert (await store.get_volume(TENANT, volume.id)).node_id == sandbox.node_id
    await store.set_status(sandbox.id, Status.TERMINATED, at=LATER, change=Change(reason=EndReason.USER))
    assert await status(store, volume) == (VolumeStatus.AVAILABLE, None)
    assert (await store.get_sandbox(TENANT, sandbox.id)).volume == volume.name


async def test_one_sandbox_at_a_time(store: Store) -> None:
    """The second one is not recorded, and is told who holds it; a create that is undone lets go."""
    volume = await added(store)
    first, second = holding(volume), holding(volume)
    await store.add_sandbox(first, max_live=None)
    with pytest.raises(VolumeInUse) as refused:
        await store.add_sandbox(second, max_live=None)
    assert refused.value.fields == {"sandbox_id": first.id}
    assert [each.id for each in await store.live_sandboxes(first.node_id)] == [first.id]
    await store.forget_sandbox(first.id)
    await store.add_sandbox(second, max_live=None)
    assert await status(store, volume) == (VolumeStatus.ATTACHED, second.id)


async def test_forgetting_one_that_runs_does_not_let_go(store: Store) -> None:
    """Nothing is forgotten then."""
    volume = await added(store)
    sandbox = holding(volume, Status.RUNNING)
    await store.add_sandbox(sandbox, max_live=None)
    await store.forget_sandbox(sandbox.id)
    assert await status(store, volume) == (VolumeStatus.ATTACHED, sandbox.id)


async def test_what_cannot_be_attached(store: Store) -> None:
    """One that is being moved, one that is deleted, another tenant's."""
    moving = await added(store, name="moving", status=VolumeStatus.MOVING)
    with pytest.raises(StateConflict):
        await store.add_sandbox(holding(moving), max_live=None)
    gone = await added(store, name="gone")
    await store.set_volume_status(gone.id, VolumeStatus.DELETING, expected=VolumeStatus.AVAILABLE, at=LATER)
    theirs = await added(store, tenant=OTHER)
    for volume in (gone, theirs):
        with pytest.raises(VolumeNotFound):
            await store.add_sandbox(holding(volume), max_live=None)
    stored = await added(store, name="stored", status=VolumeStatus.STORED)
    await store.add_sandbox(holding(stored), max_live=None)


async def test_status_is_compared_and_set(store: Store) -> None:
    """Whoever expects another gets nothing; STORED brings the region."""
    volume = await added(store)
    assert not await store.set_volume_status(
        volume.id, VolumeStatus.STORED, expected=VolumeStatus.MOVING, at=LATER, region="far"
    )
    await store.set_volume_status(volume.id, VolumeStatus.MOVING, expected=VolumeStatus.AVAILABLE, at=LATER)
    stored = await store.set_volume_status(
        volume.id, VolumeStatus.STORED, expected=VolumeStatus.MOVING, at=LATER, region="far"
    )
    assert stored == replace(volume, status=VolumeStatus.STORED, region="far")
    assert await store.get_volume(TENANT, volume.id) == stored


async def test_deleting_destroys_the_key_with_a_receipt(store: Store) -> None:
    """In one step; the record stays until all of it is gone."""
    volume = await added(store)
    event = Event(EventType.VOLUME_EXPIRED, TENANT, LATER, {"volume": {"id": volume.id}})
    assert await store.set_volume_status(
        volume.id, VolumeStatus.DELETING, expected=VolumeStatus.AVAILABLE, at=LATER, event=event
    )
    (left,) = await store.volumes_on_node("node-a")
    assert (left.status, left.sealed_key, left.key_id) == (VolumeStatus.DELETING, None, volume.key_id)
    (receipt,) = await store.list_receipts(TENANT, subject=volume.id, limit=10)
    assert (receipt.key_id, receipt.at) == (volume.key_id, LATER)
    await store.forget_volume(volume.id)
    assert await store.volumes_on_node("node-a") == []


async def test_only_what_is_being_deleted_is_forgotten(store: Store) -> None:
    """Whatever asks."""
    volume = await added(store)
    await store.forget_volume(volume.id)
    assert await store.get_volume(TENANT, volume.id) == volume


async def test_a_lifetime_is_set_and_cleared(store: Store) -> None:
    """In its tenant only."""
    volume = await added(store)
    changed = await store.set_volume_lifetime(TENANT, volume.id, days=None, hours=2, expires_at=LATER)
    assert (changed.lifetime_hours, changed.expires_at) == (2, LATER)
    cleared = await store.set_volume_lifetime(TENANT, volume.id, days=None, hours=None, expires_at=None)
    assert cleared == volume
    with pytest.raises(VolumeNotFound):
        await store.set_volume_lifetime(OTHER, volume.id, days=1, hours=None, expires_at=LATER)


async def test_volumes_of_a_node(store: Store) -> None:
    """All tenants' there, and those that are nowhere yet."""
    here = await added(store, name="here", node_id="node-a")
    nowhere = await added(store, name="nowhere", tenant=OTHER)
    await added(store, name="there", node_id="node-b")
    assert {volume.id for volume in await store.volumes_on_node("node-a")} == {here.id, nowhere.id}
