"""Pause and resume, snapshots, forks, receipts."""

from __future__ import annotations

import datetime as dt

import httpx
import pytest

from terp import (
    AsyncSandbox,
    AsyncSnapshot,
    AsyncTerp,
    BadReply,
    ConnectionFailed,
    DeletionReceipt,
    GuestFault,
    InvalidRequest,
    Paused,
    PlanLimit,
    SavedStateFault,
    SnapshotCap,
    SnapshotNotFound,
    StateDamaged,
    StateMismatch,
    StorageFull,
)

PAUSED = {"stored_bytes": 5000000, "dirty_bytes": 9000000, "stopped_ms": 41.5}
FULL = {"detail": "full", "code": "fleet_full_retry"}


@pytest.fixture
async def client(server):
    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        yield client


@pytest.fixture
async def sandbox(server, client):
    server.reply(201, server.sandbox)
    return await AsyncSandbox.create(client=client)


async def test_pause_and_resume(server, sandbox):
    """A pause says what it took; a resume brings the lease that the server began."""
    server.reply(200, {"sandbox_id": sandbox.id, **PAUSED})
    server.reply(200, {**server.sandbox, "expires_at": "2026-01-01T02:00:00Z"})

    paused = await sandbox.pause()
    status = sandbox.status
    await sandbox.resume()

    assert paused == Paused(**PAUSED)
    assert (status, sandbox.status) == ("paused", "running")
    assert sandbox.expires_at == dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone.utc)
    path = f"/v1/sandboxes/{sandbox.id}"
    assert server.calls[1:] == [f"POST {path}/pause", f"POST {path}/resume"]
    assert [request.content for request in server.requests[1:]] == [b"", b""]


async def test_resume_waits_for_a_full_server(server, sandbox):
    """As a create does; nothing was changed until then."""
    server.reply(503, FULL, {"retry-after": "0.01"})
    server.reply(200, server.sandbox)

    await sandbox.resume()

    assert sandbox.status == "running"


@pytest.mark.parametrize("act", ["pause", "resume", "snapshot", "fork"])
async def test_acts_are_never_sent_twice(server, sandbox, act):
    """A lost reply leaves open whether it was done, and doing it again may do it twice."""
    server.fail(httpx.ReadError("reset"))

    with pytest.raises(ConnectionFailed):
        await getattr(sandbox, act)()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("snapshot_cap_reached", 409, SnapshotCap),
        ("storage_full", 507, StorageFull),
        ("from_the_future", 507, StorageFull),
        ("saved_state_fault", 409, SavedStateFault),
        ("state_mismatch", 409, StateMismatch),
        ("state_damaged", 409, StateDamaged),
        ("plan_limit", 403, PlanLimit),
    ],
)
async def test_refusals_leave_it_as_it_was(server, sandbox, code, status, kind):
    """Each is known by its code; what the object says is still what the server said last."""
    server.reply(status, {"detail": "not now", "code": code})

    with pytest.raises(kind, match="not now"):
        await sandbox.pause()

    assert sandbox.status == "running"


async def test_late_failure_of_a_pause_is_a_failure(server, sandbox):
    """A long pause has its status sent early."""
    server.reply(200, content=b"   " + b'{"detail": "no room", "code": "storage_full"}')

    with pytest.raises(StorageFull):
        await sandbox.pause()

    assert sandbox.status == "running"


async def test_leaving_the_block_terminates_a_paused_one(server, sandbox):
    """It would otherwise be kept, and count against the cap."""
    server.reply(200, {"sandbox_id": sandbox.id, **PAUSED})
    server.reply(204)

    async with sandbox:
        await sandbox.pause()

    assert server.calls[-1] == f"DELETE /v1/sandboxes/{sandbox.id}"
    assert sandbox.status == "terminated"


async def test_what_the_server_says_of_a_paused_one(server, client):
    """Until when it is kept, what it takes, what it came from."""
    said = {"status": "paused", "paused_expires_at": "2026-01-08T00:00:00Z", "stored_bytes": 7, "auto_resume": True}
    server.reply(200, {**server.sandbox, **said, "snapshot": "snap_1"})

    info = (await AsyncSandbox.get("sbx_1", client=client)).info

    assert (info.status, info.stored_bytes, info.auto_resume, info.snapshot) == ("paused", 7, True, "snap_1")
    assert info.paused_expires_at == dt.datetime(2026, 1, 8, tzinfo=dt.timezone.utc)


async def test_snapshot_and_what_is_created_from_it(server, client, sandbox):
    """Template, size and network are not sent: they are the snapshot's."""
    server.reply(201, server.snapshot)
    server.reply(201, {**server.sandbox, "snapshot": server.snapshot["id"]})
    server.reply(201, server.sandbox)

    taken = await sandbox.snapshot("after setup")
    child = await AsyncSandbox.create(snapshot=taken, timeout=60, on_timeout="pause", auto_resume=True, client=client)
    await AsyncSandbox.create(snapshot="snap_1", client=client)

    assert (taken.id, taken.name, taken.status) == (server.snapshot["id"], "after setup", "ready")
    assert (taken.info.stored_bytes, taken.info.stopped_ms, taken.info.error) == (5000000, 12.5, None)
    assert child.info.snapshot == taken.id
    assert server.calls[1] == f"POST /v1/sandboxes/{sandbox.id}/snapshots"
    assert server.sent(1) == {"name": "after setup"}
    assert server.sent(2) == {
        "snapshot": taken.id,
        "timeout_seconds": 60,
        "on_timeout": "pause",
        "auto_resume": True,
        "env": {},
        "metadata": {},
        "preview_auth": True,
    }
    assert server.sent(3)["snapshot"] == "snap_1"


@pytest.mark.parametrize("given", [{"template": "node-22"}, {"size": "small"}, {"network": "off"}])
async def test_snapshot_brings_template_size_and_network_along(client, given):
    """What would be ignored is refused, before anything is sent."""
    with pytest.raises(InvalidRequest, match="come from the snapshot"):
        await AsyncSandbox.create(snapshot="snap_1", client=client, **given)


async def test_snapshots_are_found_and_deleted(server, client):
    """By id or one after the other; a source that nobody knows any more is none."""
    server.reply(200, {"snapshots": [server.snapshot, {**server.snapshot, "id": "snap_2", "source_sandbox_id": None}]})
    server.reply(200, server.snapshot)
    server.reply(204)

    listed = [snapshot async for snapshot in AsyncSnapshot.list(client=client)]
    found = await AsyncSnapshot.get("a/b", client=client)
    await found.delete()

    assert [snapshot.id for snapshot in listed] == [server.snapshot["id"], "snap_2"]
    assert listed[1].info.source_sandbox_id is None
    assert server.calls == [
        "GET /v1/sandboxes/snapshots",
        "GET /v1/sandboxes/snapshots/a%2Fb",
        f"DELETE /v1/sandboxes/snapshots/{found.id}",
    ]


async def test_unknown_snapshot(server, client):
    """It has an error of its own."""
    server.reply(404, {"detail": "no such", "code": "snapshot_not_found"})

    with pytest.raises(SnapshotNotFound):
        await AsyncSnapshot.get("snap_1", client=client)


async def test_id_that_would_be_another_address_is_refused(client):
    """`..` in a path is taken for the directory above."""
    with pytest.raises(InvalidRequest, match="snap_"):
        await AsyncSnapshot.get("..", client=client)


async def test_fork_gives_the_children(server, sandbox):
    """Each is a sandbox like any other; a full server is waited for, since it started none."""
    server.reply(503, FULL, {"retry-after": "0.01"})
    children = [{**server.sandbox, "id": f"sbx_{n}"} for n in (1, 2)]
    server.reply(201, {"sandboxes": children, "stopped_ms": 12.5})
    server.reply(204)

    first, second = await sandbox.fork(2, timeout=60, env={"A": "1"}, metadata={"n": "x"})
    await second.terminate()

    assert (first.id, second.id, first.status) == ("sbx_1", "sbx_2", "running")
    assert server.calls[2:] == [f"POST /v1/sandboxes/{sandbox.id}/fork", "DELETE /v1/sandboxes/sbx_2"]
    assert server.sent(2) == {
        "count": 2,
        "timeout_seconds": 60,
        "on_timeout": "kill",
        "auto_resume": False,
        "env": {"A": "1"},
        "metadata": {"n": "x"},
    }


async def test_late_failure_of_a_fork_is_a_failure(server, sandbox):
    """The empty list beside the error is for others."""
    server.reply(201, {"sandboxes": [], "stopped_ms": None, "detail": "did not come up", "code": "guest_fault"})

    with pytest.raises(GuestFault, match="did not come up"):
        await sandbox.fork()


async def test_receipts(server, client, sandbox):
    """Of one sandbox, or of all that the key's tenant had."""
    row = {
        "subject": sandbox.id,
        "what": "memory and disk",
        "at": "2026-01-01T00:00:00.500000Z",
        "key_id": "dk_1",
        "server_key_id": "sk_1",
    }
    server.reply(200, {"receipts": [row]})
    server.reply(200, {"receipts": []})

    receipts = await sandbox.deletion_receipts()
    none = await client.deletion_receipts(limit=5)

    at = dt.datetime(2026, 1, 1, microsecond=500000, tzinfo=dt.timezone.utc)
    assert receipts == (DeletionReceipt(sandbox.id, "memory and disk", at, "dk_1", "sk_1"),)
    assert none == ()
    assert server.calls[1:] == [
        f"GET /v1/deletion-receipts?subject={sandbox.id}&limit=50",
        "GET /v1/deletion-receipts?limit=5",
    ]


@pytest.mark.parametrize("reply", [{}, {"sandbox_id": "sbx_1"}, {**PAUSED, "stopped_ms": "long"}])
async def test_nonsense_is_a_bad_reply(server, sandbox, reply):
    """Whatever comes, what comes out is ours."""
    server.reply(200, reply)
    server.reply(200, {"snapshots": [reply]})
    server.reply(200, {"sandboxes": reply})
    server.reply(200, {"receipts": [1]})

    with pytest.raises(BadReply):
        await sandbox.pause()
    with pytest.raises(BadReply):
        [snapshot async for snapshot in AsyncSnapshot.list(client=sandbox._client)]
    with pytest.raises(BadReply):
        await sandbox.fork()
    with pytest.raises(BadReply):
        await sandbox.deletion_receipts()
