"""Pause, resume and waking over HTTP."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.api import POLICY, RunningApi, running_api
from support.until import until

from terpd.model.errors import (
    CapacityUnavailable,
    GuestFault,
    StateDamaged,
    StateMismatch,
    StorageFull,
    TerpError,
    Unavailable,
)
from terpd.model.ids import SandboxId


def url(sandbox_id: str, call: str = "") -> str:
    return f"/v1/sandboxes/{sandbox_id}{call}"


async def paused(api: RunningApi, **body: object) -> str:
    sandbox_id = await api.create(**body)
    answer = await api.client.post(url(sandbox_id, "/pause"))
    assert answer.status_code == 200, answer.text
    return sandbox_id


async def frames(api: RunningApi, method: str, path: str, **options: object) -> AsyncIterator[dict[str, object]]:
    async with api.client.stream(method, path, **options) as answer:  # type: ignore[arg-type]
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line[5:])
            elif line:
                yield {"kind": "comment"}


async def test_pause_and_resume(api: RunningApi) -> None:
    """The same sandbox is saved, listed as paused, and runs on with a lease as long as the one it had."""
    sandbox_id = await api.create(timeout_seconds=300, env={"A": "kept"})

    answer = await api.client.post(url(sandbox_id, "/pause"))

    assert answer.status_code == 200
    assert answer.json() == {"sandbox_id": sandbox_id, "stored_bytes": 1024, "dirty_bytes": 4096, "stopped_ms": 10.0}
    assert SandboxId(sandbox_id) not in api.node.machines
    sandbox = (await api.client.get(url(sandbox_id))).json()
    assert (sandbox["status"], sandbox["stored_bytes"], sandbox["paused_expires_at"]) == ("paused", 1024, None)
    for status, ids in (("paused", [sandbox_id]), ("running", []), ("resuming", []), ("pausing", [])):
        page = (await api.client.get("/v1/sandboxes", params={"status": status})).json()
        assert [each["id"] for each in page["sandboxes"]] == ids
    limits = (await api.client.get("/v1/sandboxes/limits")).json()
    assert (limits["live"], limits["paused"]) == (0, 1)

    answer = await api.client.post(url(sandbox_id, "/resume"))

    sandbox = answer.json()
    assert (answer.status_code, sandbox["id"], sandbox["status"]) == (200, sandbox_id, "running")
    assert (sandbox["stored_bytes"], sandbox["ended_at"]) == (None, None)
    left = dt.datetime.fromisoformat(sandbox["expires_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(seconds=200) < left <= dt.timedelta(seconds=300)
    answer = await api.client.post(url(sandbox_id, "/exec"), json={"command": "env A"})
    assert answer.json()["stdout"] == "kept"


@pytest.mark.parametrize("call", ["/pause", "/resume"])
async def test_body_is_none_or_empty(api: RunningApi, call: str) -> None:
    """No body and `{}` are the same; anything else is a mistake and does nothing."""
    for options in ({}, {"json": {}}):
        sandbox_id = await api.create() if call == "/pause" else await paused(api)
        answer = await api.client.post(url(sandbox_id, call), **options)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
    sandbox_id = await api.create() if call == "/pause" else await paused(api)
    before = (await api.client.get(url(sandbox_id))).json()["status"]
    for body in ({"force": True}, [], "now"):
        answer = await api.client.post(url(sandbox_id, call), json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await api.client.get(url(sandbox_id))).json()["status"] == before


async def test_calls_in_the_wrong_state(api: RunningApi) -> None:
    """409 that says the state: resume is for paused ones, everything else for running ones."""
    running, sleeping, ended = await api.create(), await paused(api), await api.create()
    await api.client.delete(url(ended))
    for sandbox_id, status, calls in (
        (running, "running", [("POST", "/resume", None)]),
        (
            sleeping,
            "paused",
            [
                ("POST", "/pause", None),
                ("POST", "/snapshots", None),
                ("POST", "/fork", None),
                ("POST", "/timeout", {"timeout_seconds": 60}),
                ("POST", "/exec", {"command": "echo"}),
                ("POST", "/exec", {"command": "echo", "stream": True}),
                ("GET", "/exec/cmd_01JG0000000000000000000000", None),
                ("GET", "/files?path=/tmp", None),
                ("PUT", "/files/content?path=/tmp/a", None),
            ],
        ),
        (
            ended,
            "terminated",
            [
                ("POST", "/pause", None),
                ("POST", "/resume", None),
                ("POST", "/snapshots", None),
                ("POST", "/fork", None),
                ("GET", "/exec/cmd_01JG0000000000000000000000", None),
            ],
        ),
    ):
        for method, call, body in calls:
            answer = await api.client.request(method, url(sandbox_id, call), json=body)
            told = answer.json()
            assert (answer.status_code, told["code"], told.get("status")) == (409, "state_conflict", status), call
        assert (await api.client.get(url(sandbox_id))).json()["status"] == status


async def test_terminating_a_paused_one(api: RunningApi) -> None:
    """It ends, what was saved of it goes, and it cannot be resumed."""
    sandbox_id = await paused(api)
    assert (await api.client.delete(url(sandbox_id))).status_code == 204
    sandbox = (await api.client.get(url(sandbox_id))).json()
    assert (sandbox["status"], sandbox["end_reason"], sandbox["stored_bytes"]) == ("terminated", "user", None)
    await until(lambda: not api.node.states)


async def test_cap_of_paused_sandboxes(tmp_path: Path) -> None:
    """409 snapshot_cap_reached with the limit, and the sandbox runs on; ending a paused one makes room."""
    async with running_api(tmp_path, policy=replace(POLICY, max_snapshots=1)) as api:
        first, second = await paused(api), await api.create()
        answer = await api.client.post(url(second, "/pause"))
        assert (answer.status_code, answer.json()["code"]) == (409, "snapshot_cap_reached")
        assert answer.json()["limit"] == 1
        assert (await api.client.get(url(second))).json()["status"] == "running"
        await api.client.delete(url(first))
        assert (await api.client.post(url(second, "/pause"))).status_code == 200


async def test_paused_time_is_bounded(tmp_path: Path) -> None:
    """A paused sandbox says when it ends; a running one has no such time."""
    async with running_api(tmp_path, policy=replace(POLICY, max_paused_s=3600)) as api:
        sandbox_id = await paused(api)
        ends = (await api.client.get(url(sandbox_id))).json()["paused_expires_at"]
        left = dt.datetime.fromisoformat(ends) - dt.datetime.now(dt.UTC)
        assert dt.timedelta(seconds=3500) < left <= dt.timedelta(seconds=3600)
        assert (await api.client.post(url(sandbox_id, "/resume"))).json()["paused_expires_at"] is None


async def test_running_window_is_bounded(tmp_path: Path) -> None:
    """403 plan_limit, in whatever way a longer lease is asked for, with the reason beside it."""
    async with running_api(tmp_path, policy=replace(POLICY, max_running_lifetime_s=900)) as api:
        sandbox_id = await api.create(timeout_seconds=600)
        for path, body in (
            (url(sandbox_id, "/timeout"), {"timeout_seconds": 1000}),
            (url(sandbox_id, "/fork"), {"timeout_seconds": 1000}),
            ("/v1/sandboxes", {"template": "python-3.12", "timeout_seconds": 1000}),
        ):
            answer = await api.client.post(path, json=body)
            told = answer.json()
            assert (answer.status_code, told["code"]) == (403, "plan_limit"), path
            assert (told["reason"], told["limit"]) == ("lifetime_cap_reached", 900)
        assert (await api.client.get("/v1/sandboxes/limits")).json()["max_running_lifetime_seconds"] == 900


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (StorageFull("The disk is full"), 507, "30"),
        (Unavailable("The store is away"), 503, "2"),
        (GuestFault("The guest is silent"), 502, None),
        (StateMismatch("The template was built anew"), 409, None),
    ],
)
async def test_failed_pause_changes_nothing(
    api: RunningApi, error: TerpError, status: int, retry_after: str | None
) -> None:
    """The sandbox runs on, and can be paused when the reason is gone."""
    sandbox_id = await api.create()
    api.node.capture_error = error
    answer = await api.client.post(url(sandbox_id, "/pause"))
    assert (answer.status_code, answer.json()["code"]) == (status, error.code)
    assert answer.headers.get("retry-after") == retry_after
    assert (await api.client.get(url(sandbox_id))).json()["status"] == "running"
    assert (await api.client.post(url(sandbox_id, "/exec"), json={"command": "echo a"})).status_code == 200
    api.node.capture_error = None
    assert (await api.client.post(url(sandbox_id, "/pause"))).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CapacityUnavailable("The node is full"), 503),
        (StorageFull("The disk is full"), 507),
        (StateMismatch("It was saved on another processor"), 409),
        (StateDamaged("Its memory is not what was saved"), 409),
        (GuestFault("It did not wake up"), 502),
    ],
)
async def test_failed_resume_stays_paused(api: RunningApi, error: TerpError, status: int) -> None:
    """Nothing is lost: it resumes when the reason is gone."""
    sandbox_id = await paused(api)
    api.node.start_error = error
    answer = await api.client.post(url(sandbox_id, "/resume"))
    assert (answer.status_code, answer.json()["code"]) == (status, error.code)
    assert (await api.client.get(url(sandbox_id))).json()["status"] == "paused"
    api.node.start_error = None
    assert (await api.client.post(url(sandbox_id, "/resume"))).status_code == 200


@pytest.mark.parametrize("error", [None, StorageFull("The disk is full")])
async def test_slow_pause_drips(hasty_api: RunningApi, error: TerpError | None) -> None:
    """Spaces come while it is saved; a late failure has a code and no sandbox_id: nobody shall take it for done."""
    api = hasty_api
    sandbox_id = await api.create()
    api.node.capture_gate.clear()
    api.node.capture_error = error
    async with api.client.stream("POST", url(sandbox_id, "/pause")) as answer:
        pieces = answer.aiter_bytes()
        assert (answer.status_code, await anext(pieces)) == (200, b" ")
        api.node.capture_gate.set()
        body = json.loads(b"".join([piece async for piece in pieces]))
    if error is None:
        assert (body["sandbox_id"], body["stored_bytes"]) == (sandbox_id, 1024)
    else:
        assert body == {"code": "storage_full", "detail": "The disk is full"}


@pytest.mark.parametrize("error", [None, GuestFault("It did not wake up")])
async def test_slow_resume_drips(hasty_api: RunningApi, error: TerpError | None) -> None:
    """Spaces come while it starts, then the sandbox as it is; a late failure stands beside it."""
    api = hasty_api
    sandbox_id = await api.create()
    async with api.client.stream("POST", url(sandbox_id, "/pause")) as answer:
        await answer.aread()
    api.node.start_gate.clear()
    api.node.start_error = error
    async with api.client.stream("POST", url(sandbox_id, "/resume")) as answer:
        pieces = answer.aiter_bytes()
        assert (answer.status_code, await anext(pieces)) == (200, b" ")
        api.node.start_gate.set()
        body = json.loads(b"".join([piece async for piece in pieces]))
    assert body["id"] == sandbox_id
    expected = ("running", None) if error is None else ("paused", "guest_fault")
    assert (body["status"], body.get("code")) == expected


async def test_pause_is_finished_when_the_client_leaves(api: RunningApi) -> None:
    """It is neither lost nor half-done."""
    sandbox_id = await api.create()
    api.node.capture_gate.clear()
    request = asyncio.create_task(api.client.post(url(sandbox_id, "/pause")))
    await api.node.capturing.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    api.node.capture_gate.set()
    while (await api.client.get(url(sandbox_id))).json()["status"] == "pausing":
        pass
    assert (await api.client.get(url(sandbox_id))).json()["status"] == "paused"


@pytest.mark.parametrize(
    ("method", "call", "body"),
    [
        ("POST", "/exec", {"command": "echo a"}),
        ("POST", "/exec", {"command": "echo a", "stream": True}),
        ("GET", "/files?path=/tmp", None),
        ("POST", "/files", {"path": "/tmp/a", "content": ""}),
        ("GET", "/files/stat?path=/tmp", None),
        ("POST", "/files/mkdir", {"path": "/tmp/d"}),
        ("POST", "/files/batch", {"files": [{"path": "/tmp/a", "content": ""}]}),
    ],
)
async def test_auto_resume(api: RunningApi, method: str, call: str, body: dict[str, object] | None) -> None:
    """With auto_resume a command or a file call finds a paused sandbox running."""
    sandbox_id = await paused(api, auto_resume=True)
    answer = await api.client.request(method, url(sandbox_id, call), json=body)
    assert answer.status_code < 300, answer.text
    sandbox = (await api.client.get(url(sandbox_id))).json()
    assert (sandbox["status"], sandbox["auto_resume"]) == ("running", True)


async def test_auto_resume_that_fails_is_told(api: RunningApi) -> None:
    """What keeps it from running is what the caller hears, with its own status."""
    sandbox_id = await paused(api, auto_resume=True)
    api.node.start_error = CapacityUnavailable("The node is full")
    for body in ({"command": "echo"}, {"command": "echo", "stream": True}):
        answer = await api.client.post(url(sandbox_id, "/exec"), json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "fleet_full_retry")
    answer = await api.client.get(url(sandbox_id, "/files?path=/tmp"))
    assert (answer.status_code, answer.json()["code"]) == (503, "fleet_full_retry")
    assert (await api.client.get(url(sandbox_id))).json()["status"] == "paused"


@pytest.mark.parametrize("error", [None, GuestFault("It did not wake up")])
async def test_slow_waking_keeps_a_stream_alive(hasty_api: RunningApi, error: TerpError | None) -> None:
    """A stream whose sandbox must first be resumed has begun by then; what goes wrong is its only frame."""
    api = hasty_api
    sandbox_id = await api.create(auto_resume=True)
    async with api.client.stream("POST", url(sandbox_id, "/pause")) as answer:
        await answer.aread()
    api.node.start_gate.clear()
    api.node.start_error = error
    seen = []
    body = {"command": "echo a", "stream": True}
    async for frame in frames(api, "POST", url(sandbox_id, "/exec"), json=body):
        if frame["kind"] == "comment":
            api.node.start_gate.set()
        else:
            seen.append(frame)
    if error is None:
        assert [frame["kind"] for frame in seen] == ["exec_started", "exec_chunk", "exec_exited"]
    else:
        assert seen == [{"kind": "error", "code": "guest_fault", "message": "It did not wake up"}]


async def test_leaving_while_it_wakes(hasty_api: RunningApi) -> None:
    """The resume is finished, the command is not started, and the server stays well."""
    api = hasty_api
    sandbox_id = await api.create(auto_resume=True)
    async with api.client.stream("POST", url(sandbox_id, "/pause")) as answer:
        await answer.aread()
    api.node.start_gate.clear()
    stream = frames(api, "POST", url(sandbox_id, "/exec"), json={"command": "wait it", "stream": True})
    assert (await anext(stream))["kind"] == "comment"
    await stream.aclose()  # type: ignore[attr-defined]
    api.node.start_gate.set()
    while (await api.client.get(url(sandbox_id))).json()["status"] != "running":
        pass
    assert not api.node.machines[SandboxId(sandbox_id)].memory.commands


async def test_commands_go_on_after_the_resume(api: RunningApi) -> None:
    """A pause ends the calls that follow a command; what they are told is enough to go on behind it."""
    sandbox_id = await api.create()
    stream = frames(api, "POST", url(sandbox_id, "/exec"), json={"command": "wait it", "stream": True})
    started, chunk = await anext(stream), await anext(stream)
    buffered = asyncio.create_task(api.client.post(url(sandbox_id, "/exec"), json={"command": "wait it"}))
    await until(lambda: len(api.node.machines[SandboxId(sandbox_id)].memory.commands) == 2)

    await api.client.post(url(sandbox_id, "/pause"))

    (broken,) = [frame async for frame in stream]
    length = len(base64.b64decode(str(chunk["data"])))
    assert (broken["kind"], broken["code"]) == ("error", "state_conflict")
    assert broken["status"] in ("pausing", "paused")
    assert (broken["command_id"], broken["offset"]) == (started["command_id"], length)
    answer = await buffered
    told = answer.json()
    assert (answer.status_code, told["code"]) == (409, "state_conflict")
    # Nothing of its output has reached this caller: attaching begins at the beginning.
    assert told["offset"] == 0
    await api.client.post(url(sandbox_id, "/resume"))
    api.node.released["it"].set()
    for command_id, offset, kinds in (
        (started["command_id"], broken["offset"], ["exec_started", "exec_exited"]),
        (told["command_id"], told["offset"], ["exec_started", "exec_chunk", "exec_exited"]),
    ):
        again = frames(api, "GET", url(sandbox_id, f"/exec/{command_id}"), params={"offset": offset})
        assert [frame["kind"] async for frame in again] == kinds


async def test_attach(api: RunningApi) -> None:
    """From the beginning or from any offset on, as often as one likes, and with a key that may only read."""
    sandbox_id = await api.create()
    stream = frames(api, "POST", url(sandbox_id, "/exec"), json={"command": "pieces 616263 646566", "stream": True})
    seen = [frame async for frame in stream]
    assert [frame["offset"] for frame in seen if frame["kind"] == "exec_chunk"] == [0, 3]
    headers = {"authorization": f"Bearer {await api.key(scopes={'sandboxes:read'})}"}
    for query, rest in (("", b"abcdef"), ("?offset=0", b"abcdef"), ("?offset=4", b"ef"), ("?offset=6", b"")):
        path = url(sandbox_id, f"/exec/{seen[0]['command_id']}{query}")
        again = [frame async for frame in frames(api, "GET", path, headers=headers)]
        assert again[0] == seen[0]
        assert b"".join(base64.b64decode(str(f["data"])) for f in again if f["kind"] == "exec_chunk") == rest
        assert again[-1] == seen[-1]


@pytest.mark.parametrize(
    ("command_id", "query", "status", "code"),
    [
        ("cmd_01JG0000000000000000000000", "", 404, "command_not_found"),
        ("cmd_x", "", 404, "command_not_found"),
        ("..%2F..", "", 404, "not_offered"),
        ("cmd_01JG0000000000000000000000", "?offset=-1", 422, "invalid_request"),
        ("cmd_01JG0000000000000000000000", "?offset=1e3", 422, "invalid_request"),
        ("cmd_01JG0000000000000000000000", f"?offset={2**63}", 422, "invalid_request"),
    ],
)
async def test_impossible_attach(api: RunningApi, command_id: str, query: str, status: int, code: str) -> None:
    """It says what is wrong, before a stream begins."""
    sandbox_id = await api.create()
    answer = await api.client.get(url(sandbox_id, f"/exec/{command_id}{query}"))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
