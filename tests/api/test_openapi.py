"""The description in openapi/ is what the routes say, and replies are what the description says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from support.api import RunningApi

from terpd.api.app import describe_app

ROOT = Path(__file__).parent.parent.parent
DESCRIPTION = describe_app().openapi()


def test_file_is_current() -> None:
    """A change of the API shows as a change of the file."""
    check = subprocess.run(
        [sys.executable, ROOT / "tools" / "openapi.py", "--check"], check=False, capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout


def test_every_call_is_described() -> None:
    """Each has an operation id of its own and a summary; closed ones name the key and its errors."""
    calls = [call for methods in DESCRIPTION["paths"].values() for call in methods.values()]
    ids = [call["operationId"] for call in calls]
    assert len(ids) == len(set(ids))
    for call in calls:
        assert call["summary"]
        if "security" in call:
            assert {"401", "403"} <= set(call["responses"])


def assert_described(answer: httpx.Response, operation: str) -> None:
    call = next(c for m in DESCRIPTION["paths"].values() for c in m.values() if c["operationId"] == operation)
    described: dict[str, Any] = call["responses"][str(answer.status_code)]
    if answer.status_code == 204:
        assert not answer.content
        return
    schema = described["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": DESCRIPTION["components"]}).validate(answer.json())


async def test_replies_are_as_described(api: RunningApi) -> None:
    """One good reply of every call with a JSON body, and some errors."""
    client = api.client
    created = await client.post("/v1/sandboxes", json={"template": "python-3.12", "metadata": {"a": "b"}})
    sandbox = f"/v1/sandboxes/{created.json()['id']}"
    networked = await client.post("/v1/sandboxes", json={"template": "python-3.12", "network": "restricted"})
    network = f"/v1/sandboxes/{networked.json()['id']}"
    file = {"path": "/tmp/a", "content": "YQ=="}
    replies = [
        (created, "create_sandbox"),
        (networked, "create_sandbox"),
        (await client.post("/v1/sandboxes", json={}), "create_sandbox"),
        (await client.post("/v1/sandboxes", json={"template": "none"}), "create_sandbox"),
        (await client.get("/v1/sandboxes"), "list_sandboxes"),
        (await client.get(sandbox), "get_sandbox"),
        (await client.get("/v1/sandboxes/sbx_"), "get_sandbox"),
        (await client.post(f"{sandbox}/timeout", json={"timeout_seconds": 60}), "set_sandbox_timeout"),
        (await client.post(f"{sandbox}/exec", json={"command": "echo a"}), "exec"),
        (await client.post(f"{sandbox}/exec", json={"command": "kill 9"}), "exec"),
        (await client.post(f"{sandbox}/files", json=file), "write_file"),
        (await client.post(f"{sandbox}/files/batch", json={"files": [file, {**file, "path": "/"}]}), "write_files"),
        (await client.get(f"{sandbox}/files?path=/tmp/a"), "read_file"),
        (await client.get(f"{sandbox}/files?path=/tmp"), "read_file"),
        (await client.get(f"{sandbox}/files/stat?path=/tmp/a"), "stat_file"),
        (await client.get(f"{sandbox}/files/stat?path=/tmp/none"), "stat_file"),
        (await client.put(f"{sandbox}/files/content?path=/tmp/b", content=b"b"), "upload_file"),
        (await client.post(f"{sandbox}/files/mkdir", json={"path": "/tmp/d"}), "make_directory"),
        (await client.delete(f"{sandbox}/files?path=/tmp/a"), "delete_file"),
        (await client.patch(f"{network}/network", json={"allow_domains": ["a.example"]}), "set_sandbox_network"),
        (await client.patch(f"{sandbox}/network", json={"report_only": True}), "set_sandbox_network"),
        (await client.get(f"{network}/egress"), "list_sandbox_egress"),
        (await client.get(f"{network}/host?port=80"), "get_sandbox_host"),
        (await client.get(f"{sandbox}/host?port=80"), "get_sandbox_host"),
        (await client.get("/v1/sandboxes/limits"), "get_limits"),
        (await client.get("/v1/templates"), "list_templates"),
        (snapshot := await client.post(f"{sandbox}/snapshots", json={"name": "a"}), "take_snapshot"),
        (await client.get("/v1/sandboxes/snapshots"), "list_snapshots"),
        (await client.get(f"/v1/sandboxes/snapshots/{snapshot.json()['id']}"), "get_snapshot"),
        (await client.delete(f"/v1/sandboxes/snapshots/{snapshot.json()['id']}"), "delete_snapshot"),
        (await client.get(f"/v1/sandboxes/snapshots/{snapshot.json()['id']}"), "get_snapshot"),
        (await client.post(f"{sandbox}/fork", json={"count": 2}), "fork_sandbox"),
        (await client.post(f"{sandbox}/fork", json={"count": 0}), "fork_sandbox"),
        (await client.post(f"{sandbox}/pause"), "pause_sandbox"),
        (await client.get(sandbox), "get_sandbox"),
        (await client.post(f"{sandbox}/pause"), "pause_sandbox"),
        (await client.post(f"{sandbox}/exec", json={"command": "echo a"}), "exec"),
        (await client.post(f"{sandbox}/resume"), "resume_sandbox"),
        (await client.get(f"{sandbox}/exec/cmd_01JG0000000000000000000000"), "attach_exec"),
        (await client.delete(sandbox), "terminate_sandbox"),
        (await client.get("/v1/deletion-receipts"), "list_deletion_receipts"),
        (await client.post(f"{sandbox}/exec", json={"command": "echo a"}), "exec"),
        (await client.get("/readyz"), "ready"),
    ]
    for answer, operation in replies:
        assert_described(answer, operation)


@pytest.mark.parametrize("header", ["authorization"])
async def test_unauthenticated_is_as_described(api: RunningApi, header: str) -> None:
    """The most common error has the shape of all."""
    assert_described(await api.client.get("/v1/templates", headers={header: ""}), "list_templates")
