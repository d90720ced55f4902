"""What every Store promises of pauses, resumes, forks, snapshots and of keys destroyed."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace

import pytest
from support.sandboxes import NOON, TENANT, make_sandbox
from support.snapshots import SERVER_KEYS, make_snapshot

from terpd.model.errors import PlanLimit, SnapshotCap, SnapshotNotFound
from terpd.model.ids import TenantId, new_state_id
from terpd.model.ports import Change, Idempotency, Store
from terpd.model.sandbox import FINAL, ON_NODE, SAVED, TRANSITIONS, EndReason, Sandbox, Status
from terpd.model.snapshot import SavedState, SnapshotStatus

OTHER = TenantId("other")
LATER = NOON + dt.timedelta(seconds=5)
MUCH_LATER = NOON + dt.timedelta(hours=5)
STATE = new_state_id()


def with_key(sandbox: Sandbox) -> Sandbox:
    key = SERVER_KEYS.new_data_key(sandbox.id)
    return replace(sandbox, key_id=key.id, sealed_key=key.sealed)


def make_saved(status: Status = Status.PAUSED, **changes: object) -> Sandbox:
    sandbox = replace(
        with_key(make_sandbox(status=status)),
        started_at=NOON,
        window_began_at=NOON,
        state_id=STATE,
        stored_bytes=4096,
        paused_expires_at=MUCH_LATER,
    )
    return replace(sandbox, **changes)  # type: ignore[arg-type]


async def receipts(store: Store, tenant: TenantId = TENANT) -> list[str]:
    return [receipt.subject for receipt in await store.list_receipts(tenant, subject=None, limit=100)]


# ---- pause and resume ----------------------------------------------------------------------------


async def test_saved_sandbox_is_read_back_as_recorded(store: Store) -> None:
    """The saved state's fields and the wrapped key survive."""
    sandbox = make_saved(snapshot=new_state_id(), lease_s=77)
    await store.add_sandbox(sandbox, max_live=None)
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox


async def test_pause_and_resume_of_one_life(store: Store) -> None:
    """Intent carries the state, the outcome its size and end; running again forgets them and begins a window."""
    sandbox = with_key(replace(make_sandbox(status=Status.RUNNING), started_at=NOON, window_began_at=NOON))
    await store.add_sandbox(sandbox, max_live=None)
    pausing = await store.set_status(sandbox.id, Status.PAUSING, at=LATER, change=Change(state_id=STATE))
    assert pausing == replace(sandbox, status=Status.PAUSING, state_id=STATE)
    outcome = Change(stored_bytes=4096, paused_expires_at=MUCH_LATER)
    paused = await store.set_status(sandbox.id, Status.PAUSED, at=LATER, change=outcome)
    assert paused == replace(pausing, status=Status.PAUSED, stored_bytes=4096, paused_expires_at=MUCH_LATER)
    resuming = await store.set_status(sandbox.id, Status.RESUMING, at=LATER)
    assert resuming == replace(paused, status=Status.RESUMING)
    running = await store.set_status(sandbox.id, Status.RUNNING, at=MUCH_LATER, change=Change(expires_at=MUCH_LATER))
    assert running == replace(sandbox, expires_at=MUCH_LATER, window_began_at=MUCH_LATER)


async def test_failed_resume_leaves_the_saved_state(store: Store) -> None:
    """Back in PAUSED nothing is lost: state, size and end are as before."""
    paused = make_saved()
    await store.add_sandbox(paused, max_live=None)
    await store.set_status(paused.id, Status.RESUMING, at=LATER)
    assert await store.set_status(paused.id, Status.PAUSED, at=LATER) == paused


async def test_undone_pause_goes_on_in_its_window(store: Store) -> None:
    """A pause that could not be saved does not lengthen the time a sandbox may run at a stretch."""
    sandbox = replace(make_sandbox(status=Status.RUNNING), started_at=NOON, window_began_at=NOON)
    await store.add_sandbox(sandbox, max_live=None)
    await store.set_status(sandbox.id, Status.PAUSING, at=LATER, change=Change(state_id=STATE))
    assert await store.set_status(sandbox.id, Status.RUNNING, at=MUCH_LATER) == sandbox


@pytest.mark.parametrize("expected", list(Status))
async def test_move_from_an_expected_status_only(store: Store, expected: Status) -> None:
    """Where the table allows several, `expected` says which."""
    sandbox = make_saved(Status.RESUMING)
    await store.add_sandbox(sandbox, max_live=None)
    moved = await store.set_status(sandbox.id, Status.RUNNING, at=LATER, change=Change(expected=expected))
    assert (moved is not None) == (expected is Status.RESUMING)


async def test_of_two_pauses_at_the_cap_one_wins(store: Store) -> None:
    """The cap counts what is saved or being saved, also under concurrency; the loser runs on as it was."""
    await store.add_sandbox(make_saved(), max_live=None)
    await store.add_sandbox(make_saved(tenant=OTHER), max_live=None)
    running = [make_sandbox(status=Status.RUNNING) for _ in range(2)]
    for sandbox in running:
        await store.add_sandbox(sandbox, max_live=None)
    change = Change(state_id=STATE, max_saved=2)
    results = await asyncio.gather(
        *(store.set_status(s.id, Status.PAUSING, at=LATER, change=change) for s in running), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Sandbox", "SnapshotCap"]
    loser = running[[isinstance(result, SnapshotCap) for result in results].index(True)]
    assert await store.get_sandbox(TENANT, loser.id) == loser
    assert await store.count_saved(TENANT) == 2


async def test_of_two_resumes_at_the_limit_one_wins(store: Store) -> None:
    """A resume takes one of the places of those that run; the loser stays paused."""
    paused = [make_saved() for _ in range(2)]
    for sandbox in [*paused, make_sandbox(status=Status.RUNNING)]:
        await store.add_sandbox(sandbox, max_live=None)
    results = await asyncio.gather(
        *(store.set_status(s.id, Status.RESUMING, at=LATER, change=Change(max_on_node=2)) for s in paused),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["PlanLimit", "Sandbox"]
    loser = paused[[isinstance(result, PlanLimit) for result in results].index(True)]
    assert await store.get_sandbox(TENANT, loser.id) == loser
    assert await store.count_on_node(TENANT) == 2


async def test_who_may_not_move_does_not_hear_of_limits(store: Store) -> None:
    """A pause of what is paused already is a lost race, whatever the cap."""
    paused = make_saved()
    await store.add_sandbox(paused, max_live=None)
    change = Change(state_id=STATE, max_saved=0)
    assert await store.set_status(paused.id, Status.PAUSING, at=LATER, change=change) is None


@pytest.mark.parametrize("status", list(Status))
async def test_counts_of_each_status(store: Store, status: Status) -> None:
    """A paused one holds no machine; a pausing one is counted as both."""
    await store.add_sandbox(make_sandbox(status=status), max_live=None)
    assert await store.count_on_node(TENANT) == (status in ON_NODE)
    assert await store.count_saved(TENANT) == (status in SAVED)
    assert (await store.count_on_node(OTHER), await store.count_saved(OTHER)) == (0, 0)


async def test_paused_time_is_due_like_a_lease(store: Store) -> None:
    """Those that run are due by their lease, those that are paused by their paused time, in one order."""

    def after(seconds: int) -> dt.datetime:
        return NOON + dt.timedelta(seconds=seconds)

    third = make_sandbox(status=Status.RUNNING, lease_s=30)
    second = make_saved(expires_at=after(1), paused_expires_at=after(20))
    first = make_sandbox(status=Status.RUNNING, lease_s=10)
    for sandbox in (
        third,
        second,
        first,
        make_saved(expires_at=after(1), paused_expires_at=None),  # kept for ever
        make_saved(Status.PAUSING, expires_at=after(1), paused_expires_at=after(1)),
        make_saved(Status.RESUMING, expires_at=after(1), paused_expires_at=after(1)),
        make_saved(Status.TERMINATED, paused_expires_at=after(1)),
        make_saved(paused_expires_at=after(1), node_id="node-b"),
    ):
        await store.add_sandbox(sandbox, max_live=None)
    assert await store.next_expiry("node-a") == after(10)
    assert await store.expired_sandboxes("node-a", after(19)) == [first]
    assert await store.expired_sandboxes("node-a", after(30)) == [first, second, third]
    await store.set_status(first.id, Status.TERMINATED, at=LATER)
    assert await store.next_expiry("node-a") == after(20)


async def test_reaper_of_paused_ones_looks_at_their_paused_time(store: Store) -> None:
    """The lease of a paused sandbox has long ended; that is no reason to end it."""
    sandbox = make_saved(expires_at=NOON, paused_expires_at=MUCH_LATER)
    forever = make_saved(expires_at=NOON, paused_expires_at=None)
    for saved in (sandbox, forever):
        await store.add_sandbox(saved, max_live=None)
        assert await store.set_status(saved.id, Status.TERMINATED, at=LATER, change=Change(expired_by=LATER)) is None
    too_late = Change(expired_by=MUCH_LATER, reason=EndReason.PAUSED_TOO_LONG)
    ended = await store.set_status(sandbox.id, Status.TERMINATED, at=MUCH_LATER, change=too_late)
    assert ended is not None
    assert ended.end_reason is EndReason.PAUSED_TOO_LONG
    assert await store.set_status(forever.id, Status.TERMINATED, at=MUCH_LATER, change=too_late) is None


# ---- forks ---------------------------------------------------------------------------------------


async def test_children_of_a_fork_start_together(store: Store) -> None:
    """Each gets its own lease; the time they began is one."""
    children = [make_sandbox() for _ in range(3)]
    for child in children:
        await store.add_sandbox(child, max_live=None)
    leases = {child.id: LATER + dt.timedelta(seconds=n) for n, child in enumerate(children)}
    started = await store.start_all(leases, at=LATER)
    assert started == [
        replace(c, status=Status.RUNNING, expires_at=leases[c.id], started_at=LATER, window_began_at=LATER)
        for c in children
    ]
    assert [await store.get_sandbox(TENANT, child.id) for child in children] == started


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.STARTING])
async def test_fork_of_which_one_child_cannot_start_starts_none(store: Store, status: Status) -> None:
    """One that was ended meanwhile, or whose status allows RUNNING by another way, undoes all."""
    child, other = make_sandbox(), make_sandbox(status=status)
    for sandbox in (child, other):
        await store.add_sandbox(sandbox, max_live=None)
    assert await store.start_all({child.id: LATER, other.id: LATER}, at=LATER) is None
    assert await store.get_sandbox(TENANT, child.id) == child
    assert await store.get_sandbox(TENANT, other.id) == other


# ---- keys destroyed ------------------------------------------------------------------------------


@pytest.mark.parametrize("before", sorted(set(Status) - FINAL))
@pytest.mark.parametrize("end", sorted(FINAL))
async def test_end_destroys_the_key_and_says_so(store: Store, before: Status, end: Status) -> None:
    """Whatever a sandbox was doing: its key is gone with its end, and one receipt names it."""
    sandbox = make_saved(before)
    await store.add_sandbox(sandbox, max_live=None)
    ended = await store.set_status(sandbox.id, end, at=LATER, change=Change(reason=EndReason.USER))
    assert end in TRANSITIONS[before]
    assert ended is not None
    assert (ended.sealed_key, ended.key_id) == (None, sandbox.key_id)
    assert (ended.state_id, ended.stored_bytes, ended.paused_expires_at) == (None, None, None)
    assert await store.get_sandbox(TENANT, sandbox.id) == ended
    [receipt] = await store.list_receipts(TENANT, subject=sandbox.id, limit=10)
    assert (receipt.tenant, receipt.subject, receipt.at) == (TENANT, sandbox.id, LATER)
    assert (receipt.key_id, receipt.server_key_id) == (sandbox.key_id, SERVER_KEYS.current_id)
    assert sandbox.id in receipt.what


async def test_of_many_ends_one_writes_a_receipt(store: Store) -> None:
    """Whoever ends it: there was one key, and there is one receipt."""
    sandbox = make_saved()
    await store.add_sandbox(sandbox, max_live=None)
    await asyncio.gather(*(store.set_status(sandbox.id, end, at=LATER) for end in sorted(FINAL) * 4))
    assert await receipts(store) == [sandbox.id]


async def test_lost_race_destroys_nothing(store: Store) -> None:
    """A reaper that was overtaken by a renewal leaves the key and writes no receipt."""
    sandbox = with_key(make_sandbox(status=Status.RUNNING))
    await store.add_sandbox(sandbox, max_live=None)
    assert await store.set_status(sandbox.id, Status.TERMINATED, at=NOON, change=Change(expired_by=NOON)) is None
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox
    assert await receipts(store) == []


async def test_sandbox_without_a_key_has_no_receipt(store: Store) -> None:
    """What an older release made was never encrypted."""
    sandbox = make_sandbox(status=Status.RUNNING)
    await store.add_sandbox(sandbox, max_live=None)
    assert await store.set_status(sandbox.id, Status.FAILED, at=LATER) is not None
    assert await receipts(store) == []


async def test_failed_start_frees_its_key_and_writes_its_receipt(store: Store) -> None:
    """Both in one: the Idempotency-Key may be used again, the data key never."""
    sandbox = with_key(make_sandbox())
    await store.add_sandbox(sandbox, max_live=None, idempotency=Idempotency("once", b"d"))
    change = Change(reason=EndReason.START_FAILED)
    await store.set_status(sandbox.id, Status.FAILED, at=LATER, change=change)
    assert await store.find_idempotent(TENANT, "once") is None
    assert await receipts(store) == [sandbox.id]


async def test_receipts_are_the_tenants_newest_first(store: Store) -> None:
    """Limited, filtered by subject, and never another tenant's."""
    mine = [make_saved() for _ in range(3)]
    theirs = make_saved(tenant=OTHER)
    for n, sandbox in enumerate([*mine, theirs]):
        await store.add_sandbox(sandbox, max_live=None)
        await store.set_status(sandbox.id, Status.TERMINATED, at=NOON + dt.timedelta(seconds=n))
    assert await receipts(store) == [sandbox.id for sandbox in reversed(mine)]
    newest = await store.list_receipts(TENANT, subject=None, limit=1)
    assert [receipt.subject for receipt in newest] == [mine[-1].id]
    assert await store.list_receipts(TENANT, subject=theirs.id, limit=10) == []
    assert await receipts(store, OTHER) == [theirs.id]


# ---- snapshots -----------------------------------------------------------------------------------


async def test_snapshot_is_read_back_as_recorded(store: Store) -> None:
    """All fields survive, before and after it is ready; the source need not be recorded."""
    snapshot = make_snapshot()
    await store.add_snapshot(snapshot, max_named=1)
    assert await store.get_snapshot(TENANT, snapshot.id) == snapshot
    saved = SavedState(snapshot.id, dirty_bytes=1 << 20, stored_bytes=3 << 32, stopped_s=0.0125)
    ready = await store.finish_snapshot(snapshot.id, at=LATER, saved=saved)
    assert ready == replace(
        snapshot, status=SnapshotStatus.READY, ready_at=LATER, stored_bytes=3 << 32, stopped_ms=12.5
    )
    assert await store.get_snapshot(TENANT, snapshot.id) == ready
    assert await store.finish_snapshot(snapshot.id, at=MUCH_LATER, saved=saved) is None


async def test_failed_snapshot_is_shown_and_its_key_gone(store: Store) -> None:
    """It says why, and a second failure or a late success changes nothing."""
    snapshot = make_snapshot()
    await store.add_snapshot(snapshot, max_named=None)
    await store.fail_snapshot(snapshot.id, at=LATER, error="no room")
    await store.fail_snapshot(snapshot.id, at=MUCH_LATER, error="again")
    found = await store.get_snapshot(TENANT, snapshot.id)
    assert found == replace(snapshot, status=SnapshotStatus.FAILED, error="no room", sealed_key=None)
    saved = SavedState(snapshot.id, 0, 0, 0.0)
    assert await store.finish_snapshot(snapshot.id, at=LATER, saved=saved) is None
    assert await receipts(store) == [snapshot.id]


async def test_ready_snapshot_cannot_fail(store: Store) -> None:
    """Whoever gives up late does not destroy what is in use."""
    snapshot = make_snapshot(status=SnapshotStatus.READY)
    await store.add_snapshot(snapshot, max_named=None)
    await store.fail_snapshot(snapshot.id, at=LATER, error="late")
    assert await store.get_snapshot(TENANT, snapshot.id) == snapshot
    assert await receipts(store) == []


async def test_named_cap_holds_under_concurrent_adds(store: Store) -> None:
    """Of eight at once three are recorded; another tenant's and those for forks do not count."""
    await store.add_snapshot(make_snapshot(tenant=OTHER), max_named=1)
    await store.add_snapshot(make_snapshot(for_fork=True), max_named=None)
    results = await asyncio.gather(
        *(store.add_snapshot(make_snapshot(), max_named=3) for _ in range(8)), return_exceptions=True
    )
    assert [type(r) for r in results if r is not None] == [SnapshotCap] * 5
    assert await store.count_snapshots(TENANT) == 3
    await store.add_snapshot(make_snapshot(for_fork=True), max_named=None)


async def test_snapshots_are_listed_newest_first(store: Store) -> None:
    """Those for forks are the server's own: seen by its node and by their id only."""
    first, second = make_snapshot(), make_snapshot(name=None)
    for_fork, elsewhere = make_snapshot(for_fork=True), make_snapshot(tenant=OTHER, node_id="node-b")
    for snapshot in (first, second, for_fork, elsewhere):
        await store.add_snapshot(snapshot, max_named=None)
    assert await store.list_snapshots(TENANT) == sorted([first, second], key=lambda s: s.id, reverse=True)
    assert await store.count_snapshots(TENANT) == 2
    assert {s.id for s in await store.snapshots_on_node("node-a")} == {first.id, second.id, for_fork.id}
    assert await store.get_snapshot(TENANT, for_fork.id) == for_fork


async def test_another_tenants_snapshot_is_not_found(store: Store) -> None:
    """Neither read nor deleted."""
    snapshot = make_snapshot()
    await store.add_snapshot(snapshot, max_named=None)
    with pytest.raises(SnapshotNotFound):
        await store.get_snapshot(OTHER, snapshot.id)
    assert not await store.delete_snapshot(OTHER, snapshot.id, at=LATER)
    assert await store.list_snapshots(OTHER) == []
    assert await store.get_snapshot(TENANT, snapshot.id) == snapshot


@pytest.mark.parametrize("status", list(SnapshotStatus))
async def test_deleted_snapshot_leaves_its_receipt(store: Store, status: SnapshotStatus) -> None:
    """Also one that is being captured, whose capture then has nothing to finish. A second delete finds nothing."""
    snapshot = make_snapshot(status=status)
    await store.add_snapshot(snapshot, max_named=None)
    assert await store.delete_snapshot(TENANT, snapshot.id, at=LATER)
    assert not await store.delete_snapshot(TENANT, snapshot.id, at=MUCH_LATER)
    with pytest.raises(SnapshotNotFound):
        await store.get_snapshot(TENANT, snapshot.id)
    assert await store.finish_snapshot(snapshot.id, at=LATER, saved=SavedState(snapshot.id, 0, 0, 0.0)) is None
    [receipt] = await store.list_receipts(TENANT, subject=snapshot.id, limit=10)
    assert (receipt.at, receipt.key_id) == (LATER, snapshot.key_id)
    assert snapshot.id in receipt.what
