"""Webhooks over HTTP, with a receiver on a real socket; what sandboxes use."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.api import RunningApi, running_api
from support.receivers import Receiver, receiving
from support.until import until

from terpd.control.webhooks import signature
from terpd.courier.courier import PublicCourier
from terpd.egress.upstream import Upstream
from terpd.model.ids import SandboxId
from terpd.model.usage import LiveUsage, MachineTotal, UsageSample

HOOKS = "/v1/sandboxes/webhooks"


@contextlib.asynccontextmanager
async def hooked_api(directory: Path, *, anywhere: bool) -> AsyncIterator[RunningApi]:
    with contextlib.closing(PublicCourier(Upstream(), anywhere=anywhere)) as courier:
        async with running_api(directory, courier=courier) as api:
            yield api


@pytest.fixture
async def open_api(tmp_path: Path) -> AsyncIterator[RunningApi]:
    """A server that may post to this host."""
    async with hooked_api(tmp_path, anywhere=True) as api:
        yield api


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def make(api: RunningApi, url: str, *types: str) -> dict[str, Any]:
    body = {"url": url, **({"event_types": list(types)} if types else {})}
    answer = await api.client.post(HOOKS, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_life_of_a_webhook(open_api: RunningApi, receiver: Receiver) -> None:
    """The secret is shown once; what is listed is what was made; deleted, it is gone."""
    made = await make(open_api, receiver.url, "sandbox.paused")
    assert made.pop("secret").startswith("whsec_")
    assert made == {
        "id": made["id"],
        "url": receiver.url,
        "event_types": ["sandbox.paused"],
        "active": True,
        "consecutive_failures": 0,
        "last_delivery_at": None,
        "last_error": None,
        "created_at": made["created_at"],
    }
    second = await make(open_api, receiver.url)
    del second["secret"]
    assert second["event_types"] is None
    assert (await open_api.client.get(HOOKS)).json() == {"webhooks": [second, made]}
    assert (await open_api.client.post(f"{HOOKS}/{made['id']}/enable")).json() == made
    for _ in range(2):
        assert (await open_api.client.delete(f"{HOOKS}/{made['id']}")).status_code == 204
    assert (await open_api.client.get(HOOKS)).json() == {"webhooks": [second]}
    gone = await open_api.client.post(f"{HOOKS}/{made['id']}/enable")
    assert (gone.status_code, gone.json()["code"]) == (404, "webhook_not_found")


async def test_events_arrive(open_api: RunningApi, receiver: Receiver) -> None:
    """From create to end, signed; the log has them."""
    made = await make(open_api, receiver.url)
    sandbox_id = await open_api.create(metadata={"user": "42"})
    await open_api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await open_api.client.post(f"/v1/sandboxes/{sandbox_id}/resume")
    await open_api.client.delete(f"/v1/sandboxes/{sandbox_id}")
    await until(lambda: len(receiver.requests) == 4)

    by_type = {}
    for request in receiver.requests:
        body = json.loads(request.body)
        assert request.headers["x-orkestr-signature"] == signature(made["secret"], request.body)
        assert request.headers["x-orkestr-event"] == body["type"]
        assert request.headers["x-orkestr-delivery"] == body["id"]
        assert (body["sandbox"]["id"], body["sandbox"]["metadata"]) == (sandbox_id, {"user": "42"})
        by_type[body["type"]] = body["sandbox"]["status"]
    assert by_type == {
        "sandbox.created": "running",
        "sandbox.paused": "paused",
        "sandbox.resumed": "running",
        "sandbox.terminated": "terminated",
    }

    async def log() -> list[dict[str, Any]]:
        return list((await open_api.client.get(f"{HOOKS}/{made['id']}/deliveries")).json()["deliveries"])

    while any(each["status"] == "pending" for each in await log()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    deliveries = await log()
    assert [each["type"] for each in deliveries] == [
        f"sandbox.{step}" for step in ("terminated", "resumed", "paused", "created")
    ]
    assert {each["response_status"] for each in deliveries} == {200}
    (found,) = (await open_api.client.get(HOOKS)).json()["webhooks"]
    assert found["last_delivery_at"] is not None
    figures = (await open_api.client.get("/metrics")).text
    assert 'terp_webhook_tries_total{outcome="delivered"} 4.0' in figures
    assert "terp_webhook_deliveries_waiting 0.0" in figures


async def test_children_of_a_fork_are_created(open_api: RunningApi, receiver: Receiver) -> None:
    """Each is told of."""
    source = await open_api.create()
    await make(open_api, receiver.url, "sandbox.created")
    answer = await open_api.client.post(f"/v1/sandboxes/{source}/fork", json={"count": 2})
    assert answer.status_code == 201, answer.text
    await until(lambda: len(receiver.requests) == 2)
    told = {json.loads(request.body)["sandbox"]["id"] for request in receiver.requests}
    assert told == {child["id"] for child in answer.json()["sandboxes"]}


async def test_failures_are_told(open_api: RunningApi) -> None:
    """Of a machine that is lost; a receiver that refuses is named in the log and tried again later."""
    async with receiving(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") as receiver:
        made = await make(open_api, receiver.url, "sandbox.failed")
        sandbox_id = await open_api.create()
        open_api.node.crash(SandboxId(sandbox_id))
        await until(lambda: receiver.requests)
        delivery: dict[str, Any] = {"tries": 0}
        while not delivery["tries"]:
            (delivery,) = (await open_api.client.get(f"{HOOKS}/{made['id']}/deliveries")).json()["deliveries"]
    assert (delivery["status"], delivery["response_status"], delivery["type"]) == ("pending", 503, "sandbox.failed")
    assert "503" in delivery["error"]
    assert json.loads(receiver.requests[0].body)["sandbox"]["end_reason"] == "machine_lost"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": 5},
        {"url": "ftp://example.com/"},
        {"url": "http://127.0.0.1/"},
        {"url": "http://169.254.169.254/latest"},
        {"url": "http://localhost/"},
        {"url": "https://user:pw@example.com/"},
        {"url": "http://8.8.8.8/", "event_types": []},
        {"url": "http://8.8.8.8/", "event_types": ["x"]},
        {"url": "http://8.8.8.8/", "events": ["sandbox.created"]},
    ],
)
async def test_what_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    """Nothing is made; the password is not repeated."""
    async with hooked_api(tmp_path, anywhere=False) as api:
        answer = await api.client.post(HOOKS, json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert "pw" not in answer.text
        assert (await api.client.get(HOOKS)).json() == {"webhooks": []}


async def test_public_address_is_taken(tmp_path: Path) -> None:
    """Without a name there is nothing to look up."""
    async with hooked_api(tmp_path, anywhere=False) as api:
        await make(api, "https://8.8.8.8/hook")


async def test_webhooks_are_bounded(api: RunningApi) -> None:
    """32 of a tenant."""
    for _ in range(32):
        await make(api, "https://example.com/")
    answer = await api.client.post(HOOKS, json={"url": "https://example.com/"})
    assert (answer.status_code, answer.json()["limit"]) == (429, 32)


async def test_other_tenants_webhook(api: RunningApi) -> None:
    """It does not exist for others, and a deletion leaves it."""
    made = await make(api, "https://example.com/")
    async with await api.as_key(await api.key(tenant="other")) as other:
        assert (await other.get(HOOKS)).json() == {"webhooks": []}
        assert (await other.post(f"{HOOKS}/{made['id']}/enable")).status_code == 404
        assert (await other.get(f"{HOOKS}/{made['id']}/deliveries")).status_code == 404
        assert (await other.delete(f"{HOOKS}/{made['id']}")).status_code == 204
    assert len((await api.client.get(HOOKS)).json()["webhooks"]) == 1
    assert (await api.client.delete(f"{HOOKS}/nonsense")).status_code == 404


# ---- usage ----

AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


async def test_metrics_of_one_that_runs(api: RunningApi) -> None:
    """Percent of its cores and of its memory; `since` leaves out what is not newer."""
    sandbox_id = SandboxId(await api.create(size="medium"))
    samples = [UsageSample(AT + dt.timedelta(seconds=n), 0.5 * (n + 1), 1 << 30) for n in range(3)]
    api.node.usage[sandbox_id] = LiveUsage(samples)
    api.node.totals = [MachineTotal(sandbox_id, "m_1", 2_500_000, 4 * 10**9)]
    await api.services.usage.record()

    found = (await api.client.get(f"/v1/sandboxes/{sandbox_id}/metrics")).json()

    assert dt.datetime.fromisoformat(found.pop("as_of"))
    assert found == {
        "sandbox_id": sandbox_id,
        "sandbox_status": "running",
        "sample_interval_seconds": 1,
        "window_seconds": 60,
        "cpu": {"cores": 2, "usage_cores": 1.5, "usage_percent": 75.0},
        "memory": {"limit_bytes": 4 << 30, "usage_bytes": 1 << 30, "usage_percent": 25.0},
        "lifetime": {"cpu_seconds": 2.5, "gb_seconds": 4.0},
        "samples": [
            {"t": "2026-03-01T12:00:00.000000Z", "cpu_percent": 25.0, "mem_bytes": 1 << 30},
            {"t": "2026-03-01T12:00:01.000000Z", "cpu_percent": 50.0, "mem_bytes": 1 << 30},
            {"t": "2026-03-01T12:00:02.000000Z", "cpu_percent": 75.0, "mem_bytes": 1 << 30},
        ],
    }
    since = int(AT.timestamp()) + 1
    newer = (await api.client.get(f"/v1/sandboxes/{sandbox_id}/metrics", params={"since": since})).json()
    assert [each["cpu_percent"] for each in newer["samples"]] == [75.0]
    assert newer["cpu"]["usage_cores"] == 1.5


async def test_metrics_of_one_that_does_not_run(api: RunningApi) -> None:
    """Paused or ended: no usage and no samples, and its lifetime."""
    sandbox_id = SandboxId(await api.create())
    api.node.usage[sandbox_id] = LiveUsage([UsageSample(AT, 1.0, 5)])
    api.node.totals = [MachineTotal(sandbox_id, "m_1", 1_000_000, 0)]
    await api.services.usage.record()
    for status in ("paused", "terminated"):
        path = f"/v1/sandboxes/{sandbox_id}"
        await (api.client.post(f"{path}/pause") if status == "paused" else api.client.delete(path))
        found = (await api.client.get(f"/v1/sandboxes/{sandbox_id}/metrics")).json()
        assert found["sandbox_status"] == status
        assert (found["cpu"]["usage_cores"], found["cpu"]["usage_percent"]) == (None, None)
        assert (found["memory"]["usage_bytes"], found["memory"]["usage_percent"]) == (None, None)
        assert found["samples"] == []
        assert found["lifetime"]["cpu_seconds"] == 1.0


@pytest.mark.parametrize("since", ["x", "-1", "1.5", "99999999999999"])
async def test_since_is_a_time(api: RunningApi, since: str) -> None:
    """Whole seconds since 1970."""
    sandbox_id = await api.create()
    assert (await api.client.get(f"/v1/sandboxes/{sandbox_id}/metrics", params={"since": since})).status_code == 422


async def test_usage_by_day(api: RunningApi) -> None:
    """Of the tenant alone; by default the last 30 days."""
    sandbox_id = SandboxId(await api.create())
    api.node.totals = [MachineTotal(sandbox_id, "m_1", 1_500_000, 3 * 10**9)]
    await api.services.usage.record()
    await api.services.usage.record()
    today = dt.datetime.now(dt.UTC).date().isoformat()
    found = (await api.client.get("/v1/usage")).json()
    assert found == {
        "days": [{"day": today, "cpu_seconds": 1.5, "gb_seconds": 3.0}],
        "total": {"cpu_seconds": 1.5, "gb_seconds": 3.0},
    }
    before = (await api.client.get("/v1/usage?since=2020-01-01&until=2020-12-31")).json()
    assert before == {"days": [], "total": {"cpu_seconds": 0.0, "gb_seconds": 0.0}}
    async with await api.as_key(await api.key(tenant="other")) as other:
        assert (await other.get("/v1/usage")).json()["days"] == []
    assert "terp_node_cpu_seconds_total 1.5" in (await api.client.get("/metrics")).text


@pytest.mark.parametrize(
    "query",
    [
        "since=x",
        "since=2026-02-30",
        "since=2026-02-02&until=2026-02-01",
        "since=2020-01-01&until=2026-01-01",
        "until=0001-01-01",
        "since=9999-12-31",
    ],
)
async def test_days_that_are_none(api: RunningApi, query: str) -> None:
    """Neither dates nor an order, or too many."""
    assert (await api.client.get(f"/v1/usage?{query}")).status_code == 422
