"""Network policies, credentials, connections on record and the hosts of previews, on the wire."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from support.api import RunningApi
from ulid import ULID

from terpd.model.errors import Unavailable
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Decision, EgressRecord, Protocol, Reason

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRET = "sk-do-not-tell-0123456789"


def secret(**changed: object) -> dict[str, object]:
    return {"name": "OPENAI", "hosts": ["API.openai.com"], "value": SECRET, **changed}


def record(sandbox: str, number: int, **changed: object) -> EgressRecord:
    at = AT + dt.timedelta(seconds=number)
    values = {
        "id": str(ULID.from_datetime(at)),
        "sandbox_id": SandboxId(sandbox),
        "tenant": TenantId("acme"),
        "at": at,
        "protocol": Protocol.TLS,
        "name": f"{number}.example",
        "address": "192.0.2.1",
        "port": 443,
        "decision": Decision.ALLOWED,
        "reason": Reason.ALLOWED_NAME,
        "bytes_out": 10,
        "bytes_in": 100,
    }
    return EgressRecord(**{**values, **changed})  # type: ignore[arg-type]


async def connections(api: RunningApi, sandbox: str, **query: object) -> dict[str, object]:
    answer = await api.client.get(f"/v1/sandboxes/{sandbox}/egress", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def recorded(api: RunningApi, sandbox: str, number: int) -> None:
    """Wait until that many connections are on record."""
    while len((await connections(api, sandbox))["connections"]) < number:  # type: ignore[arg-type]  # noqa: ASYNC110
        await asyncio.sleep(0.001)


# ---- policies ----


async def test_create_with_a_policy(api: RunningApi) -> None:
    """It is shown, and the machine has it."""
    body = {"network": "restricted", "allow_domains": ["Example.COM"], "report_only": True}
    sandbox = await api.create(**body)
    shown = (await api.client.get(f"/v1/sandboxes/{sandbox}")).json()
    assert (shown["network"], shown["allow_domains"], shown["report_only"]) == ("restricted", ["example.com"], True)
    network = api.node.machines[SandboxId(sandbox)].network
    assert network is not None
    assert (network.policy.open, network.policy.report_only) == (False, True)
    assert list(network.policy.allow_domains or ()) == ["example.com"]


async def test_patch_changes_what_is_given(api: RunningApi) -> None:
    """What is left out stays; null is the default list."""
    sandbox = await api.create(network="restricted", allow_domains=["a.example"])
    path = f"/v1/sandboxes/{sandbox}/network"
    steps = [
        ({"report_only": True}, ("restricted", ["a.example"], True)),
        ({"network": "open"}, ("open", ["a.example"], True)),
        ({"network": "restricted", "allow_domains": None, "report_only": False}, ("restricted", None, False)),
        ({"allow_domains": []}, ("restricted", [], False)),
        ({}, ("restricted", [], False)),
    ]
    for body, (network, domains, report_only) in steps:
        answer = await api.client.patch(path, json=body)
        assert answer.json() == {"network": network, "allow_domains": domains, "report_only": report_only}
    applied = api.node.machines[SandboxId(sandbox)].network
    assert applied is not None
    assert (applied.policy.open, list(applied.policy.allow_domains or ())) == (False, [])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"network": "off"}, 422),
        ({"allow_domains": ["https://a.example"]}, 422),
        ({"allow_domains": [f"{n}.example" for n in range(257)]}, 413),
        ({"allow_domains": "a.example"}, 422),
        ({"report_only": None, "mode": "open"}, 422),
    ],
)
async def test_patch_refuses(api: RunningApi, body: dict[str, object], status: int) -> None:
    """And nothing changes."""
    sandbox = await api.create(network="restricted")
    answer = await api.client.patch(f"/v1/sandboxes/{sandbox}/network", json=body)
    assert answer.status_code == status, answer.text
    shown = (await api.client.get(f"/v1/sandboxes/{sandbox}")).json()
    assert (shown["network"], shown["allow_domains"]) == ("restricted", None)


async def test_patch_without_a_network_or_a_sandbox(api: RunningApi) -> None:
    """409 says why: no network device, or it has ended."""
    off = await api.create()
    ended = await api.create(network="open")
    await api.client.delete(f"/v1/sandboxes/{ended}")
    for sandbox in (off, ended):
        answer = await api.client.patch(f"/v1/sandboxes/{sandbox}/network", json={"network": "open"})
        assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")


async def test_patch_that_the_node_does_not_take(api: RunningApi) -> None:
    """503; it is recorded, and repeating it is safe."""
    sandbox = await api.create(network="open")
    api.node.network_error = Unavailable("The gateway is away")
    path = f"/v1/sandboxes/{sandbox}/network"
    assert (await api.client.patch(path, json={"network": "restricted"})).status_code == 503
    api.node.network_error = None
    assert (await api.client.patch(path, json={"network": "restricted"})).json()["network"] == "restricted"


# ---- credentials ----


async def test_value_of_a_secret_is_nowhere(
    api: RunningApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in answers, listings, logs or the database; the guest's environment has the placeholder."""
    body = {"template": "python-3.12", "network": "restricted", "secrets": [secret()]}
    created = await api.client.post("/v1/sandboxes", json=body, headers={"idempotency-key": "a"})
    sandbox = created.json()["id"]
    assert created.json()["secrets"] == ["OPENAI"]
    answers = [
        created,
        await api.client.get("/v1/sandboxes"),
        await api.client.get(f"/v1/sandboxes/{sandbox}"),
        await api.client.post(f"/v1/sandboxes/{sandbox}/exec", json={"command": "env OPENAI"}),
        await api.client.post(f"/v1/sandboxes/{sandbox}/pause"),
        await api.client.post(f"/v1/sandboxes/{sandbox}/resume"),
    ]
    assert "terp-secret-openai" in answers[3].text
    written = "".join(str(capsys.readouterr()))
    for text in [*(answer.text for answer in answers), written]:
        assert SECRET not in text
    for file in tmp_path.glob("terp.db*"):  # noqa: ASYNC240
        assert SECRET.encode() not in file.read_bytes()
    network = api.node.machines[SandboxId(sandbox)].network
    assert network is not None
    assert [credential.value for credential in network.credentials] == [SECRET]


async def test_value_of_a_secret_is_not_in_the_idempotency_digest(api: RunningApi) -> None:
    """A digest of it could be tried against guesses: the same request with another value is the same request."""
    body = {"template": "python-3.12", "network": "open"}
    created = [
        await api.client.post(
            "/v1/sandboxes", json={**body, "secrets": [secret(value=value)]}, headers={"idempotency-key": "a"}
        )
        for value in ("one", "two")
    ]
    renamed = await api.client.post(
        "/v1/sandboxes", json={**body, "secrets": [secret(name="OTHER")]}, headers={"idempotency-key": "a"}
    )
    assert created[0].json()["id"] == created[1].json()["id"]
    assert renamed.json()["code"] == "idempotency_mismatch"


@pytest.mark.parametrize(
    "body",
    [
        {"network": "off", "secrets": [secret()]},
        {"secrets": [secret(hosts=[])]},
        {"secrets": [secret(hosts=["*.example"])]},
        {"secrets": [secret(header="host")]},
        {"secrets": [secret(value=f"{SECRET}\n")]},
        {"secrets": [secret(), secret()]},
        {"secrets": [secret(placeholder=SECRET[:4])]},
        {"secrets": [secret()], "env": {"OPENAI": "x"}},
        {"secrets": [{"name": "A", "hosts": ["a.example"], "value": [SECRET]}]},
        {"secrets": [{"name": "A", "hosts": ["a.example"], "value": SECRET, SECRET[:8]: 1}]},
    ],
)
async def test_wrong_secrets(api: RunningApi, body: dict[str, object]) -> None:
    """422 without the value, and nothing is created."""
    answer = await api.client.post("/v1/sandboxes", json={"template": "python-3.12", "network": "open", **body})
    assert answer.status_code == 422, answer.text
    assert SECRET not in answer.text
    assert not api.node.machines


async def test_too_many_secrets(api: RunningApi) -> None:
    """413."""
    secrets = [secret(name=f"S{n}") for n in range(17)]
    body = {"template": "python-3.12", "network": "open", "secrets": secrets}
    assert (await api.client.post("/v1/sandboxes", json=body)).status_code == 413


# ---- connections ----


async def test_connections_are_listed(api: RunningApi) -> None:
    """Newest first, a page at a time, with the traffic in all."""
    sandbox = await api.create(network="open")
    other = await api.create(network="open")
    api.node.report(*(record(sandbox, n) for n in range(5)), record(other, 9))
    await recorded(api, sandbox, 5)
    first = await connections(api, sandbox, limit=3)
    second = await connections(api, sandbox, limit=3, cursor=first["next_cursor"])
    names = [entry["name"] for page in (first, second) for entry in page["connections"]]  # type: ignore[attr-defined]
    assert names == [f"{n}.example" for n in (4, 3, 2, 1, 0)]
    assert second["next_cursor"] is None
    assert first["traffic"] == {"bytes_out": 50, "bytes_in": 500, "connections": 5, "blocked": 0}
    await api.client.delete(f"/v1/sandboxes/{sandbox}")
    assert len((await connections(api, sandbox))["connections"]) == 5  # type: ignore[arg-type]


async def test_connections_are_filtered(api: RunningApi) -> None:
    """By decision, by name in any case, by time with and without an offset."""
    sandbox = await api.create(network="restricted")
    blocked = record(sandbox, 3, decision=Decision.BLOCKED, reason=Reason.NAME_NOT_ALLOWED, address=None)
    api.node.report(record(sandbox, 1), record(sandbox, 2), blocked)
    await recorded(api, sandbox, 3)
    for query, names in (
        ({"decision": "blocked"}, ["3.example"]),
        ({"name": "2.EXAMPLE."}, ["2.example"]),
        ({"since": "2026-01-01T00:00:02Z"}, ["3.example", "2.example"]),
        ({"since": "2026-01-01T00:00:02"}, ["3.example", "2.example"]),
        ({"since": "2026-01-01T01:00:03+01:00"}, ["3.example"]),
        ({"decision": "allowed", "name": "3.example"}, []),
    ):
        found = (await connections(api, sandbox, **query))["connections"]
        assert [entry["name"] for entry in found] == names, query  # type: ignore[attr-defined]


@pytest.mark.parametrize("query", ["decision=maybe", "limit=0", "since=yesterday", f"cursor={'x' * 65}"])
async def test_wrong_questions_for_connections(api: RunningApi, query: str) -> None:
    """422."""
    sandbox = await api.create(network="open")
    assert (await api.client.get(f"/v1/sandboxes/{sandbox}/egress?{query}")).status_code == 422


# ---- hosts of previews ----


async def test_host(api: RunningApi) -> None:
    """The port and what the sandbox object says."""
    sandbox = await api.create(network="open")
    shown = (await api.client.get(f"/v1/sandboxes/{sandbox}")).json()
    answer = await api.client.get(f"/v1/sandboxes/{sandbox}/host?port=3000")
    assert answer.json() == {"host": f"3000-{shown['preview_host_base']}"}
    assert shown["preview_host_base"] == f"{sandbox.removeprefix('sbx_').lower()}.localhost"
    assert (shown["preview_auth"], shown["preview_auth_token"]) == (False, None)


@pytest.mark.parametrize(
    ("network", "query", "status", "code"),
    [
        ("off", "port=80", 403, "network_policy_blocked"),
        ("open", "port=0", 422, "invalid_request"),
        ("open", "port=65536", 422, "invalid_request"),
        ("open", "", 422, "invalid_request"),
    ],
)
async def test_no_host(api: RunningApi, network: str, query: str, status: int, code: str) -> None:
    """With the code that clients act on."""
    sandbox = await api.create(network=network)
    answer = await api.client.get(f"/v1/sandboxes/{sandbox}/host?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_limits_name_the_default_domains(api: RunningApi) -> None:
    """And that there can be others."""
    limits = (await api.client.get("/v1/sandboxes/limits")).json()
    assert limits["custom_egress_allowlist"] is True
    assert limits["default_egress_domains"] == []
