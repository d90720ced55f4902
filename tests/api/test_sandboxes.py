"""A sandbox's life over HTTP."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path

import httpx
import pytest
from support.api import POLICY, RunningApi, running_api
from support.simulated_node import SimulatedNode

from terpd.model.errors import CapacityUnavailable, GuestFault
from terpd.model.ids import SandboxId, parse_sandbox_id

# What the orkestr SDK 0.6.3 sends for Sandbox.create(template=...).
ORKESTR_BODY = {
    "template": "python-3.12",
    "size": "small",
    "network": "off",
    "timeout_seconds": 600,
    "on_timeout": "kill",
    "auto_resume": False,
    "preview_auth": False,
    "env": {},
    "metadata": {},
}


def parsed(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


async def test_created_sandbox_runs(api: RunningApi) -> None:
    """What an orkestr client sends is answered with 201 and a running sandbox, all required fields given."""
    answer = await api.client.post("/v1/sandboxes", json={**ORKESTR_BODY, "env": {"TOKEN": "s3cret"}})
    sandbox = answer.json()
    assert answer.status_code == 201
    assert parse_sandbox_id(sandbox["id"])
    assert (sandbox["status"], sandbox["cpu"], sandbox["memory_mb"]) == ("running", 1, 1024)
    assert api.node.machines[SandboxId(sandbox["id"])].spec.env == {"TOKEN": "s3cret"}
    assert "s3cret" not in answer.text
    lease = parsed(sandbox["expires_at"]) - parsed(sandbox["started_at"])
    assert lease == dt.timedelta(seconds=600)


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ({"timeout_seconds": 9}, "invalid_request", "timeout_seconds"),
        ({"timeout_seconds": 86401}, "invalid_request", "86400"),
        ({"timeout_seconds": "60"}, "invalid_request", "timeout_seconds"),
        ({"timeout_seconds": True}, "invalid_request", "timeout_seconds"),
        ({"size": "huge"}, "invalid_request", "small, medium"),
        ({"template": "../etc"}, "invalid_request", "template"),
        ({"template": None}, "invalid_request", "template"),
        ({"tempate": "x"}, "invalid_request", "tempate: there is no such field here"),
        ({"env": {"A=B": "x"}}, "invalid_request", "env"),
        ({"env": {"A": "\0"}}, "invalid_request", "env"),
        ({"env": {"A": 1}}, "invalid_request", "env.A"),
        ({"metadata": {"k" * 129: "x"}}, "invalid_request", "metadata"),
        ({"metadata": {"k": "v" * 1025}}, "invalid_request", "metadata"),
        ({"network": "host"}, "invalid_request", "network"),
        ({"on_timeout": "explode"}, "invalid_request", "on_timeout"),
        ({"volume": "vol_data"}, "invalid_request", "volume"),
        ({"snapshot": "snap"}, "invalid_request", "template"),
        ({"snapshot": "snap", "template": None}, "invalid_request", "size"),
        ({"region": "moon"}, "not_offered", "local"),
    ],
)
async def test_impossible_create_says_why(api: RunningApi, change: dict[str, object], code: str, word: str) -> None:
    """422 with a code, and a detail that names the field; nothing is recorded or started."""
    answer = await api.client.post("/v1/sandboxes", json={**ORKESTR_BODY, **change})
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, code)
    assert word in body["detail"]
    assert (await api.client.get("/v1/sandboxes")).json()["sandboxes"] == []
    assert not api.node.machines


@pytest.mark.parametrize("env", [{"A": "x" * 40_000}, {str(n): "" for n in range(600)}])
async def test_large_env_is_too_large(api: RunningApi, env: dict[str, str]) -> None:
    """413 with the bound, before the guest sees anything."""
    answer = await api.client.post("/v1/sandboxes", json={**ORKESTR_BODY, "env": env})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_harmless_options_are_taken(api: RunningApi) -> None:
    """allow_domains without a network has nothing to act on."""
    answer = await api.client.post(
        "/v1/sandboxes", json={**ORKESTR_BODY, "allow_domains": ["a.example"], "region": "local"}
    )
    assert answer.status_code == 201


async def test_unknown_template_leaves_nothing(api: RunningApi) -> None:
    """404, and no failed sandbox in the list."""
    answer = await api.client.post("/v1/sandboxes", json={**ORKESTR_BODY, "template": "nope"})
    assert (answer.status_code, answer.json()["code"]) == (404, "template_not_found")
    assert (await api.client.get("/v1/sandboxes")).json()["sandboxes"] == []


async def test_full_node_is_retryable(api: RunningApi) -> None:
    """503 fleet_full_retry with Retry-After; nothing was recorded, and a repetition can succeed."""
    api.node.start_error = CapacityUnavailable("The node is full")
    answer = await api.client.post("/v1/sandboxes", json=ORKESTR_BODY)
    assert (answer.status_code, answer.json()["code"]) == (503, "fleet_full_retry")
    assert answer.headers["retry-after"] == "2"
    assert (await api.client.get("/v1/sandboxes")).json()["sandboxes"] == []
    api.node.start_error = None
    assert (await api.client.post("/v1/sandboxes", json=ORKESTR_BODY)).status_code == 201


async def test_failed_start_is_recorded_and_undone(api: RunningApi) -> None:
    """502, the machine stopped, the sandbox FAILED with its reason."""
    api.node.start_error = GuestFault("The guest did not wake up")
    answer = await api.client.post("/v1/sandboxes", json=ORKESTR_BODY)
    assert (answer.status_code, answer.json()["code"]) == (502, "guest_fault")
    (sandbox,) = (await api.client.get("/v1/sandboxes")).json()["sandboxes"]
    assert (sandbox["status"], sandbox["end_reason"]) == ("failed", "start_failed")
    assert api.node.stopped == [sandbox["id"]]


async def test_concurrency_limit(api: RunningApi) -> None:
    """The sixth of five is plan_limit; ending one makes room."""
    first = await api.create()
    for _ in range(4):
        await api.create()
    answer = await api.client.post("/v1/sandboxes", json=ORKESTR_BODY)
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (403, "plan_limit", 5)
    await api.client.delete(f"/v1/sandboxes/{first}")
    await api.create()


async def test_idempotency_key_returns_the_same_sandbox(api: RunningApi) -> None:
    """Same key and body: the same sandbox, also at the same time. Another body: 409."""
    headers = {"idempotency-key": "abc"}
    answers = await asyncio.gather(
        *(api.client.post("/v1/sandboxes", json=ORKESTR_BODY, headers=headers) for _ in range(5))
    )
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["id"] for a in answers}) == 1
    assert len(api.node.machines) == 1
    other = {**ORKESTR_BODY, "timeout_seconds": 60}
    answer = await api.client.post("/v1/sandboxes", json=other, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_mismatch")


async def test_nothing_stored_depends_on_a_secret(api: RunningApi) -> None:
    """A digest of env values could be tried against guesses, so a repetition with another value is a repetition."""
    headers = {"idempotency-key": "abc"}
    bodies = [{"template": "debian-12", "env": {"TOKEN": value}} for value in ("hunter2", "other")]

    first, second = [await api.client.post("/v1/sandboxes", json=body, headers=headers) for body in bodies]

    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] == second.json()["id"]


async def test_failed_create_frees_its_idempotency_key(api: RunningApi) -> None:
    """A repetition after a failure starts anew."""
    headers = {"idempotency-key": "abc"}
    api.node.start_error = GuestFault("lost")
    assert (await api.client.post("/v1/sandboxes", json=ORKESTR_BODY, headers=headers)).status_code == 502
    api.node.start_error = None
    assert (await api.client.post("/v1/sandboxes", json=ORKESTR_BODY, headers=headers)).status_code == 201


async def test_create_is_finished_when_the_client_leaves(api: RunningApi) -> None:
    """The sandbox is neither half-made nor lost: it runs, is listed, and its lease bounds it."""
    api.node.start_gate.clear()
    request = asyncio.create_task(api.client.post("/v1/sandboxes", json=ORKESTR_BODY))
    await api.node.starting.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    api.node.start_gate.set()
    while True:
        (sandbox,) = (await api.client.get("/v1/sandboxes")).json()["sandboxes"]
        if sandbox["status"] != "starting":
            break
    assert sandbox["status"] == "running"
    assert sandbox["id"] in api.node.machines


async def test_terminated_while_starting(api: RunningApi) -> None:
    """The create answers 409, and no machine is left."""
    api.node.start_gate.clear()
    request = asyncio.create_task(api.client.post("/v1/sandboxes", json=ORKESTR_BODY))
    await api.node.starting.wait()
    (sandbox,) = (await api.client.get("/v1/sandboxes")).json()["sandboxes"]
    assert (await api.client.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
    api.node.start_gate.set()
    assert (await request).status_code == 409
    assert not api.node.machines


async def test_slow_create_drips(hasty_api: RunningApi) -> None:
    """Spaces come while the machine starts, then the sandbox; a late failure is a failed sandbox with its code."""
    api = hasty_api
    for error, status in ((None, "running"), (GuestFault("lost"), "failed")):
        api.node.start_gate.clear()
        api.node.start_error = error
        async with api.client.stream("POST", "/v1/sandboxes", json=ORKESTR_BODY) as answer:
            pieces = answer.aiter_bytes()
            assert answer.status_code == 201
            assert await anext(pieces) == b" "
            api.node.start_gate.set()
            body = json.loads(b"".join([piece async for piece in pieces]))
        assert body["status"] == status
        assert body.get("code") == (None if error is None else "guest_fault")


async def test_terminate_is_idempotent(api: RunningApi) -> None:
    """204 each time; the row stays, and what is asked of the sandbox later is 409."""
    sandbox_id = await api.create()
    for _ in range(2):
        assert (await api.client.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
    sandbox = (await api.client.get(f"/v1/sandboxes/{sandbox_id}")).json()
    assert (sandbox["status"], sandbox["end_reason"]) == ("terminated", "user")
    for call in (
        api.client.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"command": "echo"}),
        api.client.get(f"/v1/sandboxes/{sandbox_id}/files", params={"path": "/tmp"}),
        api.client.post(f"/v1/sandboxes/{sandbox_id}/timeout", json={"timeout_seconds": 60}),
    ):
        answer = await call
        assert (answer.status_code, answer.json()["code"], answer.json()["status"]) == (
            409,
            "state_conflict",
            "terminated",
        )


async def test_machine_that_does_not_stop_is_tried_again(api: RunningApi) -> None:
    """A failing stop is told; repeating the call, or the next sweep, ends the machine."""
    first, second = await api.create(), await api.create()
    api.node.stop_error = GuestFault("it does not die")
    for sandbox_id in (first, second):
        assert (await api.client.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 502
    api.node.stop_error = None
    assert (await api.client.delete(f"/v1/sandboxes/{first}")).status_code == 204
    await api.services.reconcile.sweep()
    assert not api.node.machines


async def test_timeout_counts_from_now(api: RunningApi) -> None:
    """The new lease replaces what was left."""
    sandbox_id = await api.create(timeout_seconds=3600)
    answer = await api.client.post(f"/v1/sandboxes/{sandbox_id}/timeout", json={"timeout_seconds": 60})
    left = parsed(answer.json()["expires_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta() < left <= dt.timedelta(seconds=60)
    answer = await api.client.post(f"/v1/sandboxes/{sandbox_id}/timeout", json={"timeout_seconds": 5})
    assert answer.status_code == 422


async def test_crashed_machine_fails_its_sandbox(api: RunningApi) -> None:
    """Without a call, the sandbox becomes FAILED with its reason."""
    sandbox_id = SandboxId(await api.create())
    api.node.crash(sandbox_id)
    while True:
        sandbox = (await api.client.get(f"/v1/sandboxes/{sandbox_id}")).json()
        if sandbox["status"] != "running":
            break
    assert (sandbox["status"], sandbox["end_reason"]) == ("failed", "machine_lost")


async def test_list_pages_and_filters(api: RunningApi) -> None:
    """Pages follow each other newest first; metadata and status filter them; the cursor is checked."""
    ids = [await api.create(metadata={"user id": "4/2", "n": str(n)}) for n in range(4)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 3, "metadata[user id]": "4/2", **({"cursor": cursor} if cursor else {})}
        page = (await api.client.get("/v1/sandboxes", params=params)).json()
        seen += [sandbox["id"] for sandbox in page["sandboxes"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(ids, reverse=True)
    one = await api.client.get("/v1/sandboxes?metadata%5Buser+id%5D=4%2F2&metadata%5Bn%5D=2&status=running")
    assert [s["id"] for s in one.json()["sandboxes"]] == [ids[2]]
    assert (await api.client.get("/v1/sandboxes", params={"limit": 1000})).status_code == 200
    for bad in ({"cursor": "x"}, {"limit": 0}, {"status": "odd"}, {"metadata[": "x"}):
        answer = await api.client.get("/v1/sandboxes", params=bad)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_limits_and_templates(api: RunningApi) -> None:
    """What may be used, in the fields that clients require."""
    await api.create()
    limits = (await api.client.get("/v1/sandboxes/limits")).json()
    assert limits["allowed_sizes"] == ["small", "medium"]
    assert (limits["max_concurrent"], limits["live"]) == (POLICY.max_concurrent, 1)
    assert (limits["max_snapshots"], limits["paused"]) == (POLICY.max_snapshots, 0)
    assert (limits["max_named_snapshots"], limits["named_snapshots"]) == (POLICY.max_named_snapshots, 0)
    assert limits["max_fork"] == POLICY.max_fork
    assert (limits["max_running_lifetime_seconds"], limits["max_paused_seconds"]) == (None, None)
    assert limits["sizes"][1] == {"size": "medium", "cpu": 2, "memory_mb": 4096, "allowed": True}
    templates = (await api.client.get("/v1/templates")).json()["templates"]
    assert [t["name"] for t in templates] == ["python-3.12"]


async def test_restart_adopts_what_runs(tmp_path: Path) -> None:
    """A new server over the same records and machines goes on with them; what has lost its machine is FAILED."""
    node = SimulatedNode()
    async with running_api(tmp_path, node=node) as api:
        kept, lost = await api.create(), await api.create()
    del node.machines[SandboxId(lost)]
    async with running_api(tmp_path, node=node) as api:
        assert (await api.client.get(f"/v1/sandboxes/{kept}")).json()["status"] == "running"
        sandbox = (await api.client.get(f"/v1/sandboxes/{lost}")).json()
        assert (sandbox["status"], sandbox["end_reason"]) == ("failed", "machine_lost")
        answer = await api.client.post(f"/v1/sandboxes/{kept}/exec", json={"command": "echo still here"})
        assert answer.json()["stdout"] == "still here\n"


async def test_errors_have_one_shape(api: RunningApi) -> None:
    """Unknown calls, wrong methods, unreadable bodies: an object with detail and code, and a request id."""
    calls: list[tuple[httpx.Response, int]] = [
        (await api.client.post("/v1/sandboxes/sbx_x/teleport"), 404),
        (await api.client.post("/v1/sandboxes/sbx_x/pause"), 404),
        (await api.client.get("/v1/sandboxes/snapshots/snap_x"), 404),
        (await api.client.get("/v1/sandboxes/volumes/vol_x"), 404),
        (await api.client.put("/v1/sandboxes"), 405),
        (await api.client.post("/v1/sandboxes", content=b"{", headers={"content-type": "application/json"}), 422),
        (await api.client.post("/v1/sandboxes", json=[1]), 422),
    ]
    for answer, status in calls:
        body = answer.json()
        assert answer.status_code == status
        assert isinstance(body["detail"], str)
        assert isinstance(body["code"], str)
        assert answer.headers["x-request-id"].startswith("req_")


async def test_bug_is_told_by_its_request_id_only(api: RunningApi) -> None:
    """500 without internals; the client's own id is used if it is harmless, replaced if not."""
    api.node.start_error = RuntimeError("secret internals")
    answer = await api.client.post("/v1/sandboxes", json=ORKESTR_BODY, headers={"x-request-id": "mine-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["x-request-id"] == "mine-1"
    assert "mine-1" in answer.json()["detail"]
    assert "secret" not in answer.text
    odd = await api.client.get("/healthz", headers={"x-request-id": "a b{}"})
    assert odd.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("announced", [True, False])
async def test_large_bodies_are_refused(api: RunningApi, announced: bool) -> None:  # noqa: FBT001
    """413, by the announced length or while a body of unknown length comes in."""

    async def flood() -> object:
        for _ in range(400):
            yield b" " * 65536

    content = b" " * (25 * 1024 * 1024) if announced else flood()
    answer = await api.client.post("/v1/sandboxes", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_figures_count_requests_by_route(api: RunningApi) -> None:
    """Labels are routes of the table, whatever paths were asked for."""
    sandbox_id = await api.create()
    await api.client.get(f"/v1/sandboxes/{sandbox_id}")
    await api.client.get("/v1/never/heard/of")
    text = (await api.client.get("/metrics")).text
    assert 'terp_http_requests_total{method="GET",route="/v1/sandboxes/{sandbox_id}",status="200"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert sandbox_id not in text
    assert "terp_node_machines 1.0" in text
