"""Variables of commands to come, over HTTP: set, unset, named, and never read back."""

from __future__ import annotations

import pytest
from support.api import RunningApi


def url(sandbox_id: str) -> str:
    return f"/v1/sandboxes/{sandbox_id}/env"


async def output(api: RunningApi, sandbox_id: str, name: str, **body: object) -> str:
    answer = await api.client.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"command": f"env {name}", **body})
    return str(answer.json()["stdout"])


async def test_set_and_unset(api: RunningApi) -> None:
    """Over what the sandbox was created with and under the command's own."""
    sandbox_id = await api.create(env={"A": "create", "B": "create"})
    assert (await api.client.get(url(sandbox_id))).json() == {"names": []}
    answer = await api.client.patch(url(sandbox_id), json={"set": {"B": "later", "C": "later"}})
    assert (answer.status_code, answer.json()) == (200, {"names": ["B", "C"]})
    assert [await output(api, sandbox_id, name) for name in "ABC"] == ["create", "later", "later"]
    assert await output(api, sandbox_id, "B", env={"B": "own"}) == "own"
    answer = await api.client.patch(url(sandbox_id), json={"unset": ["B", "UNKNOWN"]})
    assert answer.json() == (await api.client.get(url(sandbox_id))).json() == {"names": ["C"]}
    assert [await output(api, sandbox_id, name) for name in "BC"] == ["create", "later"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"set": {"A-B": "x"}}, 422),
        ({"set": {"": "x"}}, 422),
        ({"set": {"A": "x\0"}}, 422),
        ({"set": {"A": 1}}, 422),
        ({"unset": ["A=B"]}, 422),
        ({"set": {"A": "x"}, "unset": ["A"]}, 422),
        ({"set": {"A": "x" * 70_000}}, 413),
        ({"set": {f"A{n}": "x" for n in range(257)}}, 413),
        ({"values": {}}, 422),
    ],
)
async def test_out_of_bounds(api: RunningApi, body: dict[str, object], status: int) -> None:
    """Nothing is changed, and no message holds a value."""
    sandbox_id = await api.create()
    answer = await api.client.patch(url(sandbox_id), json=body)
    assert answer.status_code == status
    assert "xxxx" not in answer.text
    assert (await api.client.get(url(sandbox_id))).json() == {"names": []}


@pytest.mark.parametrize("include", [True, False])
async def test_copies_have_them_only_if_asked(api: RunningApi, *, include: bool) -> None:
    """Snapshots and forks; a pause keeps them."""
    sandbox_id = await api.create()
    await api.client.patch(url(sandbox_id), json={"set": {"TOKEN": "t"}})
    body = {"include_secrets": include}
    forked = await api.client.post(f"/v1/sandboxes/{sandbox_id}/fork", json=body)
    snapshot = await api.client.post(f"/v1/sandboxes/{sandbox_id}/snapshots", json=body)
    created = await api.client.post("/v1/sandboxes", json={"snapshot": snapshot.json()["id"]})
    for child in (forked.json()["sandboxes"][0]["id"], created.json()["id"]):
        assert (await api.client.get(url(child))).json() == {"names": ["TOKEN"] if include else []}
    for call in ("pause", "resume"):
        await api.client.post(f"/v1/sandboxes/{sandbox_id}/{call}")
    assert (await api.client.get(url(sandbox_id))).json() == {"names": ["TOKEN"]}
