"""Volumes over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from support.api import RunningApi

VOLUMES = "/v1/sandboxes/volumes"


async def made(api: RunningApi, **body: object) -> dict[str, Any]:
    answer = await api.client.post(VOLUMES, json={"name": "data", **body})
    assert answer.status_code == 201, answer.text
    volume: dict[str, Any] = answer.json()
    return volume


async def test_a_volume_has_all_fields(api: RunningApi) -> None:
    """201 with all that clients read, and the same when it is asked for."""
    volume = await made(api, size_gb=0.25, max_lifetime_days=2)
    assert volume["id"].startswith("vol_")
    assert (volume["name"], volume["size_mb"], volume["status"]) == ("data", 256, "available")
    assert (volume["region"], volume["node_id"], volume["attached_sandbox_id"]) == ("local", None, None)
    assert (volume["max_lifetime_days"], volume["max_lifetime_hours"]) == (2, None)
    assert volume["created_at"] < volume["expires_at"]
    assert (await api.client.get(f"{VOLUMES}/{volume['id']}")).json() == volume
    assert (await api.client.get(VOLUMES)).json() == {"volumes": [volume]}


async def test_a_sandbox_says_which_volume_it_has(api: RunningApi) -> None:
    """By its name, also when it was created with the id; the volume says who holds it, and a 409 does."""
    volume = await made(api)
    sandbox_id = await api.create(volume=volume["id"])
    assert (await api.client.get(f"/v1/sandboxes/{sandbox_id}")).json()["volume"] == "data"
    held = (await api.client.get(f"{VOLUMES}/{volume['id']}")).json()
    assert (held["status"], held["attached_sandbox_id"], held["node_id"]) == ("attached", sandbox_id, "node-a")
    second = await api.client.post("/v1/sandboxes", json={"template": "python-3.12", "volume": "data"})
    for refused in (
        second,
        await api.client.delete(f"{VOLUMES}/{volume['id']}"),
        await api.client.post(f"{VOLUMES}/{volume['id']}/move", json={"region": "local"}),
    ):
        body = refused.json()
        assert (refused.status_code, body["code"], body["sandbox_id"]) == (409, "volume_in_use", sandbox_id)
        assert sandbox_id in body["detail"]


async def test_lifetime_takes_exactly_one_field(api: RunningApi) -> None:
    """Null clears it; none and both are refused."""
    path = f"{VOLUMES}/{(await made(api))['id']}"
    changed = (await api.client.patch(path, json={"max_lifetime_hours": 24})).json()
    assert (changed["max_lifetime_hours"], changed["expires_at"] is None) == (24, False)
    cleared = (await api.client.patch(path, json={"max_lifetime_hours": None})).json()
    assert (cleared["max_lifetime_hours"], cleared["expires_at"]) == (None, None)
    for body in ({}, {"max_lifetime_days": 1, "max_lifetime_hours": None}, {"max_lifetime_days": "1"}):
        assert (await api.client.patch(path, json=body)).status_code == 422


async def test_move_and_delete(api: RunningApi) -> None:
    """A stored volume is nowhere; deleting is idempotent and proven, and what is deleted is not found."""
    volume = await made(api)
    path = f"{VOLUMES}/{volume['id']}"
    moved = (await api.client.post(f"{path}/move", json={"region": "local"})).json()
    assert (moved["status"], moved["node_id"], moved["region"]) == ("stored", None, "local")
    for _ in range(2):
        assert (await api.client.delete(path)).status_code == 204
    missing = await api.client.get(path)
    assert (missing.status_code, missing.json()["code"]) == (404, "volume_not_found")
    receipts = (await api.client.get("/v1/deletion-receipts")).json()
    assert volume["id"] in str(receipts)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "data", "size_gb": 0.1}, 422, "invalid_request"),
        ({"name": "data", "size_gb": "10"}, 422, "invalid_request"),
        ({"name": "data", "region": "moon"}, 422, "invalid_request"),
        ({"name": "data", "max_lifetime_days": 1, "max_lifetime_hours": 1}, 422, "invalid_request"),
        ({"size_gb": 1}, 422, "invalid_request"),
        ({"name": "taken"}, 409, "already_exists"),
    ],
)
async def test_impossible_volumes(api: RunningApi, body: dict[str, object], status: int, code: str) -> None:
    """Refused with a code."""
    await made(api, name="taken")
    answer = await api.client.post(VOLUMES, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
