"""Named snapshots, forks and receipts over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.api import POLICY, RunningApi, running_api
from support.until import until

from terpd.model.errors import CapacityUnavailable, GuestFault, StateMismatch, StorageFull, TerpError
from terpd.model.ids import SandboxId, parse_state_id

SNAPSHOTS = "/v1/sandboxes/snapshots"
RECEIPTS = "/v1/deletion-receipts"


def url(sandbox_id: str, call: str = "") -> str:
    return f"/v1/sandboxes/{sandbox_id}{call}"


async def taken(api: RunningApi, sandbox_id: str, **body: object) -> str:
    answer = await api.client.post(url(sandbox_id, "/snapshots"), json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def listed(api: RunningApi, **headers: str) -> list[str]:
    answer = await api.client.get(SNAPSHOTS, headers=headers)
    return [snapshot["id"] for snapshot in answer.json()["snapshots"]]


async def test_snapshot_is_ready_when_answered(api: RunningApi) -> None:
    """201 with all fields that clients read; the source runs on."""
    sandbox_id = await api.create(size="medium")
    answer = await api.client.post(url(sandbox_id, "/snapshots"), json={"name": "after setup, ü"})
    snapshot = answer.json()
    assert answer.status_code == 201
    assert parse_state_id(snapshot["id"])
    assert (snapshot["status"], snapshot["name"]) == ("ready", "after setup, ü")
    assert (snapshot["template"], snapshot["size"], snapshot["network"]) == ("python-3.12", "medium", "off")
    assert (snapshot["cpu"], snapshot["memory_mb"]) == (2, 4096)
    assert (snapshot["source_sandbox_id"], snapshot["node_id"], snapshot["region"]) == (sandbox_id, "node-a", "local")
    assert (snapshot["stored_bytes"], snapshot["size_mb"], snapshot["stopped_ms"]) == (1024, 1, 10.0)
    assert (snapshot["error_message"], snapshot["created_at"] <= snapshot["ready_at"]) == (None, True)
    assert (await api.client.get(f"{SNAPSHOTS}/{snapshot['id']}")).json() == snapshot
    assert (await api.client.get(url(sandbox_id))).json()["status"] == "running"
    limits = (await api.client.get("/v1/sandboxes/limits")).json()
    assert (limits["named_snapshots"], limits["paused"]) == (1, 0)


async def test_list_and_delete(api: RunningApi) -> None:
    """Newest first; deleting is idempotent, and what is deleted is not found."""
    sandbox_id = await api.create()
    ids = [await taken(api, sandbox_id, name=str(n)) for n in range(3)]
    assert await listed(api) == ids[::-1]
    for _ in range(2):
        assert (await api.client.delete(f"{SNAPSHOTS}/{ids[1]}")).status_code == 204
    assert await listed(api) == [ids[2], ids[0]]
    for bad in (ids[1], "snap_x"):
        answer = await api.client.get(f"{SNAPSHOTS}/{bad}")
        assert (answer.status_code, answer.json()["code"]) == (404, "snapshot_not_found")
    await until(lambda: set(api.node.states) == {ids[0], ids[2]})


@pytest.mark.parametrize("options", [{}, {"json": {}}, {"json": {"name": None}}])
async def test_name_is_optional(api: RunningApi, options: dict[str, object]) -> None:
    """No body, an empty one and no name are the same."""
    answer = await api.client.post(url(await api.create(), "/snapshots"), **options)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["name"]) == (201, None)


@pytest.mark.parametrize(
    "body", [{"name": ""}, {"name": "x" * 129}, {"name": "a\nb"}, {"name": "\0"}, {"name": 1}, {"nmae": "x"}]
)
async def test_impossible_names(api: RunningApi, body: dict[str, object]) -> None:
    """422 that names the field; nothing is taken."""
    answer = await api.client.post(url(await api.create(), "/snapshots"), json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert next(iter(body)) in answer.json()["detail"]
    assert await listed(api) == []
    assert not api.node.states


async def test_create_from_a_snapshot(api: RunningApi) -> None:
    """Template, size and network are the snapshot's; env comes over the source's; it says where it came from."""
    source = await api.create(size="medium", env={"A": "source", "B": "source"}, metadata={"of": "source"})
    await api.client.post(url(source, "/files"), json={"path": "/tmp/a", "content": "aGk="})
    snapshot = await taken(api, source)
    await api.client.delete(url(source))

    # What the orkestr SDK 0.6.3 sends for Sandbox.create(snapshot=...).
    body = {
        "snapshot": snapshot,
        "timeout_seconds": 600,
        "on_timeout": "pause",
        "auto_resume": True,
        "preview_auth": False,
        "env": {"B": "child"},
        "metadata": {},
    }
    answer = await api.client.post("/v1/sandboxes", json=body)

    child = answer.json()
    assert (answer.status_code, child["status"], child["snapshot"]) == (201, "running", snapshot)
    assert (child["template"], child["size"], child["memory_mb"]) == ("python-3.12", "medium", 4096)
    assert (child["on_timeout"], child["auto_resume"], child["metadata"]) == ("pause", True, {})
    assert child["id"] != source
    content = await api.client.get(url(child["id"], "/files?path=/tmp/a"))
    assert content.json()["content"] == "aGk="
    for name, value in (("A", "source"), ("B", "child")):
        answer = await api.client.post(url(child["id"], "/exec"), json={"command": f"env {name}"})
        assert answer.json()["stdout"] == value
    assert api.node.machines[SandboxId(child["id"])].spec.fork


@pytest.mark.parametrize("change", [{"template": "python-3.12"}, {"size": "medium"}, {"network": "off"}])
async def test_a_snapshot_settles_what_it_is(api: RunningApi, change: dict[str, object]) -> None:
    """422 for an option that would have no effect."""
    snapshot = await taken(api, await api.create())
    answer = await api.client.post("/v1/sandboxes", json={"snapshot": snapshot, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert next(iter(change)) in answer.json()["detail"]


async def test_no_such_snapshot(api: RunningApi) -> None:
    """404 for what never was, was deleted or is another tenant's; nothing is recorded."""
    snapshot = await taken(api, await api.create())
    headers = {"authorization": f"Bearer {await api.key(tenant='other')}"}
    for named, who in (("snap_01JG0000000000000000000000", {}), ("", {}), ("x", {}), (snapshot, headers)):
        answer = await api.client.post("/v1/sandboxes", json={"snapshot": named}, headers=who)
        assert (answer.status_code, answer.json()["code"]) == (404, "snapshot_not_found"), named
    assert len((await api.client.get("/v1/sandboxes")).json()["sandboxes"]) == 1


async def test_another_tenants_snapshot_does_not_exist(api: RunningApi) -> None:
    """It is not listed, not found, and a deletion leaves it."""
    snapshot = await taken(api, await api.create())
    headers = {"authorization": f"Bearer {await api.key(tenant='other')}"}
    assert await listed(api, **headers) == []
    assert (await api.client.get(f"{SNAPSHOTS}/{snapshot}", headers=headers)).status_code == 404
    assert (await api.client.delete(f"{SNAPSHOTS}/{snapshot}", headers=headers)).status_code == 204
    assert await listed(api) == [snapshot]
    assert (await api.client.get(RECEIPTS, headers=headers)).json() == {"receipts": []}


async def test_cap_of_named_snapshots(tmp_path: Path) -> None:
    """409 snapshot_cap_reached with the limit; deleting one makes room. Forks do not count."""
    async with running_api(tmp_path, policy=replace(POLICY, max_named_snapshots=1)) as api:
        sandbox_id = await api.create()
        first = await taken(api, sandbox_id)
        answer = await api.client.post(url(sandbox_id, "/snapshots"))
        assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (409, "snapshot_cap_reached", 1)
        assert (await api.client.post(url(sandbox_id, "/fork"))).status_code == 201
        await api.client.delete(f"{SNAPSHOTS}/{first}")
        await taken(api, sandbox_id)


@pytest.mark.parametrize("error", [StorageFull("The disk is full"), StateMismatch("The template was built anew")])
async def test_failed_snapshot_leaves_nothing(api: RunningApi, error: TerpError) -> None:
    """The source runs on, and no snapshot is listed."""
    sandbox_id = await api.create()
    api.node.capture_error = error
    answer = await api.client.post(url(sandbox_id, "/snapshots"))
    assert answer.json()["code"] == error.code
    assert await listed(api) == []
    assert (await api.client.get(url(sandbox_id))).json()["status"] == "running"


@pytest.mark.parametrize("error", [None, StorageFull("The disk is full")])
async def test_slow_snapshot_drips(hasty_api: RunningApi, error: TerpError | None) -> None:
    """Spaces come while it is taken; a late failure is a failed snapshot without an id, with its code."""
    api = hasty_api
    sandbox_id = await api.create()
    api.node.capture_gate.clear()
    api.node.capture_error = error
    async with api.client.stream("POST", url(sandbox_id, "/snapshots"), json={"name": "slow"}) as answer:
        pieces = answer.aiter_bytes()
        assert (answer.status_code, await anext(pieces)) == (201, b" ")
        api.node.capture_gate.set()
        body = json.loads(b"".join([piece async for piece in pieces]))
    assert {"id", "status", "template", "cpu", "memory_mb", "network"} <= set(body)  # what clients require
    if error is None:
        assert (body["status"], await listed(api)) == ("ready", [body["id"]])
    else:
        assert (body["status"], body["id"], body["code"]) == ("failed", "", "storage_full")
        assert (body["error_message"], body["name"]) == ("The disk is full", "slow")


async def test_fork(api: RunningApi) -> None:
    """Children run with what the source holds, and with options of their own; no snapshot is left of it."""
    source = await api.create(env={"A": "source"}, metadata={"of": "source"})
    body = {
        "count": 3,
        "timeout_seconds": 60,
        "on_timeout": "pause",
        "auto_resume": True,
        "env": {"B": "child"},
        "metadata": {"of": "child"},
    }

    answer = await api.client.post(url(source, "/fork"), json=body)

    assert (answer.status_code, answer.json()["stopped_ms"]) == (201, 10.0)
    children = answer.json()["sandboxes"]
    assert len({source, *(child["id"] for child in children)}) == 4
    for child in children:
        assert (child["status"], child["on_timeout"], child["auto_resume"]) == ("running", "pause", True)
        assert child["metadata"] == {"of": "child"}
        for name, value in (("A", "source"), ("B", "child")):
            told = await api.client.post(url(child["id"], "/exec"), json={"command": f"env {name}"})
            assert told.json()["stdout"] == value
        assert (await api.client.get(url(child["id"]))).json() == child
    assert (await api.client.get(url(source))).json()["status"] == "running"
    assert await listed(api) == []
    await until(lambda: not api.node.states)


@pytest.mark.parametrize("options", [{}, {"json": {}}])
async def test_fork_of_one(api: RunningApi, options: dict[str, object]) -> None:
    """Without a body there is one child, with the defaults of a create."""
    answer = await api.client.post(url(await api.create(), "/fork"), **options)  # type: ignore[arg-type]
    (child,) = answer.json()["sandboxes"]
    assert (child["on_timeout"], child["auto_resume"], child["metadata"]) == ("kill", False, {})


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"count": 0}, 422, "count"),
        ({"count": POLICY.max_fork + 1}, 422, str(POLICY.max_fork)),
        ({"count": True}, 422, "count"),
        ({"count": 1.5}, 422, "count"),
        ({"timeout_seconds": 5}, 422, "timeout_seconds"),
        ({"on_timeout": "explode"}, 422, "on_timeout"),
        ({"env": {"A=B": ""}}, 422, "env"),
        ({"env": {"A": "x" * 40_000}}, 413, "env"),
        ({"metadata": {"k" * 129: ""}}, 422, "metadata"),
        ({"template": "python-3.12"}, 422, "template"),
    ],
)
async def test_impossible_forks(api: RunningApi, body: dict[str, object], status: int, word: str) -> None:
    """It says which field and what would do; nothing is recorded or started."""
    source = await api.create()
    answer = await api.client.post(url(source, "/fork"), json=body)
    assert answer.status_code == status
    assert word in answer.json()["detail"]
    assert len((await api.client.get("/v1/sandboxes")).json()["sandboxes"]) == 1


async def test_fork_is_all_or_nothing(api: RunningApi) -> None:
    """Where not all children fit, by quota or by room, there is none, and nothing is left of the attempt."""
    source = await api.create()
    answer = await api.client.post(url(source, "/fork"), json={"count": POLICY.max_concurrent})
    assert (answer.status_code, answer.json()["code"]) == (403, "plan_limit")
    api.node.machines_cap = 2
    answer = await api.client.post(url(source, "/fork"), json={"count": 2})
    assert (answer.status_code, answer.json()["code"]) == (503, "fleet_full_retry")
    assert answer.headers["retry-after"] == "2"
    assert [each["id"] for each in (await api.client.get("/v1/sandboxes")).json()["sandboxes"]] == [source]
    assert list(api.node.machines) == [source]
    await until(lambda: not api.node.states)


@pytest.mark.parametrize("error", [None, GuestFault("lost"), CapacityUnavailable("The node is full")])
async def test_slow_fork_drips(hasty_api: RunningApi, error: TerpError | None) -> None:
    """Spaces come while the children start; a late failure has none, and a code."""
    api = hasty_api
    source = await api.create()
    api.node.start_gate.clear()
    api.node.start_error = error
    async with api.client.stream("POST", url(source, "/fork"), json={"count": 2}) as answer:
        pieces = answer.aiter_bytes()
        assert (answer.status_code, await anext(pieces)) == (201, b" ")
        api.node.start_gate.set()
        body = json.loads(b"".join([piece async for piece in pieces]))
    if error is None:
        assert [child["status"] for child in body["sandboxes"]] == ["running", "running"]
    else:
        assert body == {"sandboxes": [], "stopped_ms": None, "code": error.code, "detail": error.detail}


async def test_receipts(api: RunningApi) -> None:
    """Each end of a sandbox and each deletion of a snapshot has one, newest first, with the keys' ids."""
    first, second = await api.create(), await api.create()
    snapshot = await taken(api, first)
    assert (await api.client.get(RECEIPTS)).json() == {"receipts": []}
    for call in (url(first), f"{SNAPSHOTS}/{snapshot}", url(second)):
        await api.client.delete(call)
        await api.client.delete(call)

    receipts = (await api.client.get(RECEIPTS)).json()["receipts"]

    assert [receipt["subject"] for receipt in receipts] == [second, snapshot, first]
    assert len({receipt["key_id"] for receipt in receipts}) == 3
    assert len({receipt["server_key_id"] for receipt in receipts}) == 1
    assert all(receipt["what"] and receipt["at"].endswith("Z") for receipt in receipts)
    for query, subjects in (
        (f"?subject={snapshot}", [snapshot]),
        ("?subject=sbx_01JG0000000000000000000000", []),
        ("?limit=2", [second, snapshot]),
        ("?limit=100000", [second, snapshot, first]),
    ):
        found = (await api.client.get(f"{RECEIPTS}{query}")).json()["receipts"]
        assert [receipt["subject"] for receipt in found] == subjects
    for query in ("?limit=0", "?limit=x", f"?subject={'x' * 65}"):
        answer = await api.client.get(f"{RECEIPTS}{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
