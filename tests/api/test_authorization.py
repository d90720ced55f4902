"""Every route has a case here; one without fails the first test."""

from __future__ import annotations

import datetime as dt

import pytest
from support.api import RunningApi

from terpd.api.app import describe_app
from terpd.api.auth import OPEN_PATHS, PRESIGNED

SBX = "/v1/sandboxes/sbx_01JG0000000000000000000000"
VOL = "/v1/sandboxes/volumes/vol_01JG0000000000000000000000"
SNAP = "/v1/sandboxes/snapshots/snap_01JG0000000000000000000000"
HOOK = "/v1/sandboxes/webhooks/wh_01JG0000000000000000000000"
CMD = "cmd_01JG0000000000000000000000"

# Route → (path to call, scope it needs)
CASES = {
    "GET /v1/sandboxes/limits": ("/v1/sandboxes/limits", "sandboxes:read"),
    "GET /v1/templates": ("/v1/templates", "sandboxes:read"),
    "POST /v1/sandboxes": ("/v1/sandboxes", "sandboxes:write"),
    "GET /v1/sandboxes": ("/v1/sandboxes", "sandboxes:read"),
    "GET /v1/sandboxes/{sandbox_id}": (SBX, "sandboxes:read"),
    "DELETE /v1/sandboxes/{sandbox_id}": (SBX, "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/timeout": (f"{SBX}/timeout", "sandboxes:write"),
    "PATCH /v1/sandboxes/{sandbox_id}/network": (f"{SBX}/network", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/egress": (f"{SBX}/egress", "sandboxes:read"),
    "GET /v1/sandboxes/{sandbox_id}/host": (f"{SBX}/host?port=80", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/pause": (f"{SBX}/pause", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/resume": (f"{SBX}/resume", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/fork": (f"{SBX}/fork", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/snapshots": (f"{SBX}/snapshots", "sandboxes:write"),
    "POST /v1/sandboxes/volumes": ("/v1/sandboxes/volumes", "sandboxes:write"),
    "GET /v1/sandboxes/volumes": ("/v1/sandboxes/volumes", "sandboxes:read"),
    "GET /v1/sandboxes/volumes/{volume_id}": (VOL, "sandboxes:read"),
    "PATCH /v1/sandboxes/volumes/{volume_id}": (VOL, "sandboxes:write"),
    "DELETE /v1/sandboxes/volumes/{volume_id}": (VOL, "sandboxes:write"),
    "POST /v1/sandboxes/volumes/{volume_id}/move": (f"{VOL}/move", "sandboxes:write"),
    "GET /v1/sandboxes/snapshots": ("/v1/sandboxes/snapshots", "sandboxes:read"),
    "GET /v1/sandboxes/snapshots/{snapshot_id}": (SNAP, "sandboxes:read"),
    "DELETE /v1/sandboxes/snapshots/{snapshot_id}": (SNAP, "sandboxes:write"),
    "GET /v1/deletion-receipts": ("/v1/deletion-receipts", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/exec": (f"{SBX}/exec", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/exec/{command_id}": (f"{SBX}/exec/{CMD}", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/commands": (f"{SBX}/commands", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/commands": (f"{SBX}/commands", "sandboxes:read"),
    "GET /v1/sandboxes/{sandbox_id}/commands/{command_id}": (f"{SBX}/commands/{CMD}", "sandboxes:read"),
    "DELETE /v1/sandboxes/{sandbox_id}/commands/{command_id}": (f"{SBX}/commands/{CMD}", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/commands/{command_id}/logs": (f"{SBX}/commands/{CMD}/logs", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/pty": (f"{SBX}/pty", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/pty": (f"{SBX}/pty", "sandboxes:read"),
    "GET /v1/sandboxes/{sandbox_id}/pty/{command_id}": (f"{SBX}/pty/{CMD}", "sandboxes:read"),
    "DELETE /v1/sandboxes/{sandbox_id}/pty/{command_id}": (f"{SBX}/pty/{CMD}", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/pty/{command_id}/output": (f"{SBX}/pty/{CMD}/output", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/pty/{command_id}/input": (f"{SBX}/pty/{CMD}/input", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/pty/{command_id}/resize": (f"{SBX}/pty/{CMD}/resize", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/env": (f"{SBX}/env", "sandboxes:read"),
    "PATCH /v1/sandboxes/{sandbox_id}/env": (f"{SBX}/env", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/code": (f"{SBX}/code", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/code/contexts": (f"{SBX}/code/contexts", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/code/contexts": (f"{SBX}/code/contexts", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/code/contexts/{context_id}/restart": (
        f"{SBX}/code/contexts/default/restart",
        "sandboxes:write",
    ),
    "DELETE /v1/sandboxes/{sandbox_id}/code/contexts/{context_id}": (
        f"{SBX}/code/contexts/default",
        "sandboxes:write",
    ),
    "GET /v1/sandboxes/{sandbox_id}/files": (f"{SBX}/files?path=/a", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/files": (f"{SBX}/files", "sandboxes:write"),
    "DELETE /v1/sandboxes/{sandbox_id}/files": (f"{SBX}/files?path=/tmp/a", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/files/batch": (f"{SBX}/files/batch", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/files/mkdir": (f"{SBX}/files/mkdir", "sandboxes:write"),
    "POST /v1/sandboxes/{sandbox_id}/files/move": (f"{SBX}/files/move", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/files/stat": (f"{SBX}/files/stat?path=/a", "sandboxes:read"),
    "GET /v1/sandboxes/{sandbox_id}/files/content": (f"{SBX}/files/content?path=/a", "sandboxes:read"),
    "PUT /v1/sandboxes/{sandbox_id}/files/content": (f"{SBX}/files/content?path=/tmp/a", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/metrics": (f"{SBX}/metrics", "sandboxes:read"),
    "GET /v1/usage": ("/v1/usage", "sandboxes:read"),
    "POST /v1/sandboxes/webhooks": ("/v1/sandboxes/webhooks", "sandboxes:write"),
    "GET /v1/sandboxes/webhooks": ("/v1/sandboxes/webhooks", "sandboxes:read"),
    "POST /v1/sandboxes/webhooks/{webhook_id}/enable": (f"{HOOK}/enable", "sandboxes:write"),
    "DELETE /v1/sandboxes/webhooks/{webhook_id}": (HOOK, "sandboxes:write"),
    "GET /v1/sandboxes/webhooks/{webhook_id}/deliveries": (f"{HOOK}/deliveries", "sandboxes:read"),
    "GET /v1/sandboxes/{sandbox_id}/files/archive": (f"{SBX}/files/archive?path=/tmp", "sandboxes:read"),
    "PUT /v1/sandboxes/{sandbox_id}/files/archive": (f"{SBX}/files/archive?path=/tmp/a", "sandboxes:write"),
    "GET /v1/sandboxes/{sandbox_id}/files/watch": (f"{SBX}/files/watch?path=/tmp", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/files/presign-download": (f"{SBX}/files/presign-download", "sandboxes:read"),
    "POST /v1/sandboxes/{sandbox_id}/files/presign-upload": (f"{SBX}/files/presign-upload", "sandboxes:write"),
    "GET /metrics": ("/metrics", "metrics:read"),
}

# What a body must hold to get past its check; the scope is checked with a right one too.
BODIES = {
    "POST /v1/sandboxes": {"template": "python-3.12"},
    "POST /v1/sandboxes/{sandbox_id}/timeout": {"timeout_seconds": 60},
    "POST /v1/sandboxes/webhooks": {"url": "https://example.com/hook"},
    "PATCH /v1/sandboxes/{sandbox_id}/network": {"network": "open"},
    "POST /v1/sandboxes/{sandbox_id}/exec": {"command": "true"},
    "POST /v1/sandboxes/{sandbox_id}/commands": {"command": "true"},
    "PATCH /v1/sandboxes/{sandbox_id}/env": {"set": {}},
    "POST /v1/sandboxes/{sandbox_id}/pty/{command_id}/resize": {"cols": 80, "rows": 24},
    "POST /v1/sandboxes/{sandbox_id}/code": {"code": "1"},
    "POST /v1/sandboxes/{sandbox_id}/code/contexts": {},
    "POST /v1/sandboxes/{sandbox_id}/files": {"path": "/tmp/a", "content": ""},
    "POST /v1/sandboxes/{sandbox_id}/files/batch": {"files": []},
    "POST /v1/sandboxes/{sandbox_id}/files/mkdir": {"path": "/tmp/a"},
    "POST /v1/sandboxes/{sandbox_id}/files/move": {"source": "/tmp/a", "destination": "/tmp/b"},
    "POST /v1/sandboxes/{sandbox_id}/files/presign-download": {"path": "/tmp/a"},
    "POST /v1/sandboxes/{sandbox_id}/files/presign-upload": {"path": "/tmp/a"},
}

ALL_SCOPES = {"sandboxes:read", "sandboxes:write", "metrics:read"}


def test_every_route_has_a_case() -> None:
    """A new route is closed, and its scope is written down."""
    described = describe_app().openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    opened = {f"GET {path}" for path in OPEN_PATHS} | {f"{method} {PRESIGNED}{{token}}" for method in ("GET", "PUT")}
    assert routes - opened == set(CASES)


@pytest.mark.parametrize("route", CASES)
async def test_no_key_no_answer(api: RunningApi, route: str) -> None:
    """Without a key, with a wrong kind of credential and with an unknown key the answer is 401."""
    path, _ = CASES[route]
    method = route.split(maxsplit=1)[0]
    for header in ({"authorization": ""}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer terp_unknown"}):
        answer = await api.client.request(method, path, headers=header)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", CASES)
async def test_scope_is_needed(api: RunningApi, route: str) -> None:
    """All other scopes together do not do; the right one alone does."""
    path, scope = CASES[route]
    method = route.split(maxsplit=1)[0]
    for scopes, forbidden in ((ALL_SCOPES - {scope}, True), ({scope}, False)):
        headers = {"authorization": f"Bearer {await api.key(scopes=scopes)}"}
        answer = await api.client.request(method, path, headers=headers, json=BODIES.get(route))
        assert (answer.status_code == 403) is forbidden, answer.text


@pytest.mark.parametrize("route", [route for route in CASES if "{sandbox_id}" in route])
async def test_another_tenants_sandbox_does_not_exist(api: RunningApi, route: str) -> None:
    """Any call on it is 404, as on an id that never was."""
    sandbox_id = await api.create()
    path = CASES[route][0].replace("sbx_01JG0000000000000000000000", sandbox_id)
    headers = {"authorization": f"Bearer {await api.key(tenant='other')}"}
    answer = await api.client.request(route.split(maxsplit=1)[0], path, headers=headers, json=BODIES.get(route))
    assert (answer.status_code, answer.json()["code"]) == (404, "sandbox_not_found")
    assert sandbox_id in api.node.machines


async def test_revoked_and_expired_keys_are_refused(api: RunningApi) -> None:
    """Revocation takes effect with the next request."""
    secret, key = await api.services.keys.create(tenant="acme", name="x")
    headers = {"authorization": f"Bearer {secret}"}
    assert (await api.client.get("/v1/sandboxes", headers=headers)).status_code == 200
    await api.services.keys.revoke(key.id)
    assert (await api.client.get("/v1/sandboxes", headers=headers)).status_code == 401
    brief = await api.key(lifetime=dt.timedelta(microseconds=1))
    answer = await api.client.get("/v1/sandboxes", headers={"authorization": f"Bearer {brief}"})
    assert answer.status_code == 401


async def test_health_needs_no_key(api: RunningApi) -> None:
    """Whoever watches the server has none."""
    for path in sorted(OPEN_PATHS):
        assert (await api.client.get(path, headers={"authorization": ""})).status_code == 200
