"""What every Store promises of sandboxes and keys."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace

import pytest
from support.sandboxes import NOON, TENANT, make_sandbox

from terpd.model.errors import AlreadyExists, NotFound, PlanLimit, SandboxNotFound, StateConflict
from terpd.model.ids import KeyId, TenantId, new_key_id, new_sandbox_id
from terpd.model.ports import ApiKey, Change, Idempotency, SandboxFilter, Store
from terpd.model.sandbox import TRANSITIONS, EndReason, Status

OTHER = TenantId("other")
LATER = NOON + dt.timedelta(seconds=5)


def make_key(**changes: object) -> ApiKey:
    key = ApiKey(
        id=new_key_id(),
        tenant=TENANT,
        name="ci",
        prefix="terp_abcdef",
        digest=bytes(range(32)),
        scopes=frozenset({"sandboxes:read", "sandboxes:write"}),
        created_at=NOON,
    )
    return replace(key, **changes)  # type: ignore[arg-type]


async def test_sandbox_is_read_back_as_recorded(store: Store) -> None:
    """All fields survive, times to the microsecond and metadata with any characters."""
    sandbox = make_sandbox(metadata={"user id": "4/2", 'q"uote': "é\u2028"})
    await store.add_sandbox(sandbox, max_live=1)
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox


async def test_another_tenants_sandbox_is_not_found(store: Store) -> None:
    """Reading, listing and renewing are scoped by tenant; nothing tells that the sandbox exists."""
    sandbox = make_sandbox(status=Status.RUNNING)
    await store.add_sandbox(sandbox, max_live=None)
    with pytest.raises(SandboxNotFound):
        await store.get_sandbox(OTHER, sandbox.id)
    with pytest.raises(SandboxNotFound):
        await store.set_lease(OTHER, sandbox.id, LATER, lease_s=5)
    assert await store.list_sandboxes(OTHER, SandboxFilter()) == []
    assert await store.count_on_node(OTHER) == 0


async def test_limit_holds_under_concurrent_adds(store: Store) -> None:
    """Of ten adds at once with a limit of three, three are recorded; final ones do not count."""
    ended = make_sandbox(status=Status.TERMINATED)
    await store.add_sandbox(ended, max_live=None)
    results = await asyncio.gather(
        *(store.add_sandbox(make_sandbox(), max_live=3) for _ in range(10)), return_exceptions=True
    )
    assert [type(r) for r in results if r is not None] == [PlanLimit] * 7
    assert await store.count_on_node(TENANT) == 3
    await store.add_sandbox(make_sandbox(tenant=OTHER), max_live=1)


@pytest.mark.parametrize("before", list(Status))
@pytest.mark.parametrize("after", list(Status))
async def test_status_moves_only_along_the_table(store: Store, before: Status, after: Status) -> None:
    """set_status is a compare-and-set by the transition table, whatever it holds."""
    sandbox = make_sandbox(status=before)
    await store.add_sandbox(sandbox, max_live=None)
    moved = await store.set_status(sandbox.id, after, at=LATER)
    found = await store.get_sandbox(TENANT, sandbox.id)
    if after in TRANSITIONS[before]:
        assert moved == found
        assert found.status is after
    else:
        assert moved is None
        assert found == sandbox


async def test_of_many_terminations_one_wins(store: Store) -> None:
    """Concurrent ends of one sandbox: exactly one caller learns that it was the one."""
    sandbox = make_sandbox(status=Status.RUNNING)
    await store.add_sandbox(sandbox, max_live=None)
    results = await asyncio.gather(
        *(
            store.set_status(sandbox.id, Status.TERMINATED, at=LATER, change=Change(reason=EndReason.USER))
            for _ in range(8)
        )
    )
    assert sum(r is not None for r in results) == 1


async def test_times_and_reason_of_a_life(store: Store) -> None:
    """RUNNING stamps the start and restarts the lease; the end stamps time and reason once."""
    sandbox = make_sandbox()
    await store.add_sandbox(sandbox, max_live=None)
    lease = NOON + dt.timedelta(hours=1)
    running = await store.set_status(sandbox.id, Status.RUNNING, at=LATER, change=Change(expires_at=lease))
    ended = await store.set_status(sandbox.id, Status.FAILED, at=lease, change=Change(reason=EndReason.MACHINE_LOST))
    assert running is not None
    assert (running.started_at, running.expires_at, running.ended_at) == (LATER, lease, None)
    assert ended is not None
    assert (ended.started_at, ended.ended_at, ended.end_reason) == (LATER, lease, EndReason.MACHINE_LOST)


async def test_renewed_lease_beats_the_reaper(store: Store) -> None:
    """With `expired_by` a sandbox whose lease was extended meanwhile is left alone."""
    sandbox = make_sandbox(status=Status.RUNNING, lease_s=10)
    await store.add_sandbox(sandbox, max_live=None)
    now = NOON + dt.timedelta(seconds=11)
    await store.set_lease(TENANT, sandbox.id, now + dt.timedelta(seconds=60), lease_s=60)
    assert await store.set_status(sandbox.id, Status.TERMINATED, at=now, change=Change(expired_by=now)) is None
    later = now + dt.timedelta(seconds=60)
    assert await store.set_status(sandbox.id, Status.TERMINATED, at=later, change=Change(expired_by=later)) is not None


@pytest.mark.parametrize("status", [Status.STARTING, Status.TERMINATED, Status.FAILED])
async def test_lease_is_renewed_only_while_running(store: Store, status: Status) -> None:
    """Any other state is a conflict and changes nothing."""
    sandbox = make_sandbox(status=status)
    await store.add_sandbox(sandbox, max_live=None)
    with pytest.raises(StateConflict):
        await store.set_lease(TENANT, sandbox.id, LATER, lease_s=5)
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox


async def test_new_lease_has_its_length(store: Store) -> None:
    """A renewal records when the lease ends and how long the next one, after a resume, is to be."""
    sandbox = make_sandbox(status=Status.RUNNING, lease_s=600)
    await store.add_sandbox(sandbox, max_live=None)
    renewed = await store.set_lease(TENANT, sandbox.id, LATER, lease_s=90)
    assert (renewed.expires_at, renewed.lease_s) == (LATER, 90)
    assert await store.get_sandbox(TENANT, sandbox.id) == renewed


async def test_expiry_sees_running_sandboxes_of_the_node(store: Store) -> None:
    """Leases are due in order of their end; those that start, ended or run elsewhere are not due."""
    second = make_sandbox(status=Status.RUNNING, lease_s=20)
    first = make_sandbox(status=Status.RUNNING, lease_s=10, tenant=OTHER)
    for sandbox in (
        second,
        first,
        make_sandbox(status=Status.STARTING, lease_s=1),
        make_sandbox(status=Status.FAILED, lease_s=1),
        make_sandbox(status=Status.RUNNING, lease_s=1, node_id="node-b"),
    ):
        await store.add_sandbox(sandbox, max_live=None)
    assert await store.next_expiry("node-a") == first.expires_at
    assert await store.expired_sandboxes("node-a", first.expires_at) == [first]
    assert await store.expired_sandboxes("node-a", second.expires_at) == [first, second]
    assert await store.next_expiry("node-c") is None


async def test_live_sandboxes_of_a_node_are_all_tenants(store: Store) -> None:
    """Reconciliation sees whatever is not final on its node."""
    starting = make_sandbox()
    running = make_sandbox(status=Status.RUNNING, tenant=OTHER)
    for sandbox in (starting, running, make_sandbox(status=Status.FAILED), make_sandbox(node_id="node-b")):
        await store.add_sandbox(sandbox, max_live=None)
    assert {s.id for s in await store.live_sandboxes("node-a")} == {starting.id, running.id}


async def test_pages_are_newest_first_and_meet(store: Store) -> None:
    """Following `before` visits each sandbox once."""
    ids = sorted(new_sandbox_id() for _ in range(5))
    for sandbox_id in ids:
        await store.add_sandbox(make_sandbox(sandbox_id=sandbox_id), max_live=None)
    first = await store.list_sandboxes(TENANT, SandboxFilter(limit=3))
    rest = await store.list_sandboxes(TENANT, SandboxFilter(limit=3, before=first[-1].id))
    assert [s.id for s in [*first, *rest]] == ids[::-1]


async def test_filters_must_all_match(store: Store) -> None:
    """Status and every metadata pair, exactly, whatever characters keys and values have."""
    wanted = make_sandbox(metadata={"user id": "4/2", "a": "1"}, status=Status.RUNNING)
    for sandbox in (
        wanted,
        make_sandbox(metadata={"user id": "4/2"}, status=Status.RUNNING),
        make_sandbox(metadata={"user id": "4/2", "a": "1"}),
        make_sandbox(metadata={"user id": "1", "a": "4/2"}, status=Status.RUNNING),
    ):
        await store.add_sandbox(sandbox, max_live=None)
    where = SandboxFilter(status=Status.RUNNING, metadata={"user id": "4/2", "a": "1"})
    assert [s.id for s in await store.list_sandboxes(TENANT, where)] == [wanted.id]
    odd = SandboxFilter(metadata={"' OR 1=1 --": "x"})
    assert await store.list_sandboxes(TENANT, odd) == []


async def test_idempotency_key_is_recorded_with_its_sandbox(store: Store) -> None:
    """One sandbox per key and tenant; the loser leaves no sandbox behind."""
    sandbox, loser = make_sandbox(), make_sandbox()
    key = Idempotency("once", b"d" * 32)
    await store.add_sandbox(sandbox, max_live=None, idempotency=key)
    with pytest.raises(AlreadyExists):
        await store.add_sandbox(loser, max_live=None, idempotency=key)
    with pytest.raises(SandboxNotFound):
        await store.get_sandbox(TENANT, loser.id)
    assert await store.find_idempotent(TENANT, "once") == (b"d" * 32, sandbox.id)
    assert await store.find_idempotent(OTHER, "once") is None
    await store.add_sandbox(make_sandbox(tenant=OTHER), max_live=None, idempotency=key)


async def test_failed_start_frees_its_key(store: Store) -> None:
    """A repeated create may then start anew; any other end keeps the key."""
    key = Idempotency("once", b"d" * 32)
    failed, forgotten, ended = make_sandbox(), make_sandbox(), make_sandbox()
    await store.add_sandbox(failed, max_live=None, idempotency=key)
    await store.set_status(failed.id, Status.FAILED, at=LATER, change=Change(reason=EndReason.START_FAILED))
    await store.add_sandbox(forgotten, max_live=None, idempotency=key)
    await store.forget_sandbox(forgotten.id)
    await store.add_sandbox(ended, max_live=None, idempotency=key)
    await store.set_status(ended.id, Status.TERMINATED, at=LATER, change=Change(reason=EndReason.USER))
    assert await store.find_idempotent(TENANT, "once") == (b"d" * 32, ended.id)


async def test_idempotency_keys_live_a_day(store: Store) -> None:
    """A key a day old gives way when the next one comes."""
    await store.add_sandbox(make_sandbox(), max_live=None, idempotency=Idempotency("old", b"1"))
    next_day = make_sandbox(created_at=NOON + dt.timedelta(hours=25))
    await store.add_sandbox(next_day, max_live=None, idempotency=Idempotency("new", b"2"))
    assert await store.find_idempotent(TENANT, "old") is None


async def test_only_starting_sandboxes_are_forgotten(store: Store) -> None:
    """What has run stays in the history."""
    running, starting = make_sandbox(status=Status.RUNNING), make_sandbox(metadata={"a": "b"})
    for sandbox in (running, starting):
        await store.add_sandbox(sandbox, max_live=None)
        await store.forget_sandbox(sandbox.id)
    assert [s.id for s in await store.list_sandboxes(TENANT, SandboxFilter())] == [running.id]


async def test_key_is_found_by_its_digest_only(store: Store) -> None:
    """A key is read back as recorded."""
    key = make_key(expires_at=LATER)
    await store.add_key(key)
    assert await store.find_key(key.digest) == key
    assert await store.find_key(b"\0" * 32) is None
    assert await store.list_keys() == [key]


async def test_revoking_is_idempotent(store: Store) -> None:
    """The first revocation's time stays; an unknown key is NotFound."""
    key = make_key()
    await store.add_key(key)
    await store.revoke_key(key.id, NOON)
    again = await store.revoke_key(key.id, LATER)
    assert again.revoked_at == NOON
    with pytest.raises(NotFound):
        await store.revoke_key(KeyId("key_x"), NOON)
