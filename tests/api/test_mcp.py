"""The tools over the Model Context Protocol, from its official client, over HTTP and through `terp mcp`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextResourceContents
from support.api import RunningApi
from support.until import until

from terpd.api.mcp import endpoint, running
from terpd.model.code import CodeDone, CodeResult, ResultType

TOOLS = {
    "create_sandbox": "adds",
    "list_sandboxes": "looks",
    "run_shell": "destroys",
    "run_code": "destroys",
    "write_file": "destroys",
    "read_file": "looks",
    "list_files": "looks",
    "pause_sandbox": "adds",
    "resume_sandbox": "adds",
    "fork_sandbox": "adds",
    "terminate_sandbox": "destroys",
    "get_preview_url": "looks",
    "egress_log": "looks",
}


@contextlib.asynccontextmanager
async def over_http(api: RunningApi, key: str | None = None) -> AsyncIterator[Client]:
    key = key or api.client.headers["authorization"].removeprefix("Bearer ")
    headers = {"authorization": f"Bearer {key}"}
    http = httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60)
    async with http, Client(streamable_http_client(f"{api.url}/api/sandboxes/mcp", http_client=http)) as client:
        yield client


@contextlib.asynccontextmanager
async def over_stdio(api: RunningApi) -> AsyncIterator[Client]:
    key = api.client.headers["authorization"].removeprefix("Bearer ")
    env = {**os.environ, "TERP_BASE_URL": api.url, "TERP_API_KEY": key}
    bridge = StdioServerParameters(command=sys.executable, args=["-m", "terp.cli.main", "mcp"], env=env)
    async with Client(bridge) as client:
        yield client


both = pytest.mark.parametrize("connected", [over_http, over_stdio])
Connected = Callable[[RunningApi], AbstractAsyncContextManager[Client]]


def content(result: CallToolResult) -> Any:
    assert not result.is_error, result.content
    return result.structured_content


def problem(result: CallToolResult) -> str:
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


async def created(client: Client, **options: object) -> str:
    result = await client.call_tool("create_sandbox", {"template": "python-3.12", **options})
    return str(content(result)["id"])


@both
async def test_tools(api: RunningApi, connected: Connected) -> None:
    """All are there, say what they are for, what they take and give, and how careful one has to be."""
    async with connected(api) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == set(TOOLS)
        for name, tool in tools.items():
            assert tool.description, name
            assert tool.output_schema, name
            assert tool.annotations is not None
            kind = "looks" if tool.annotations.read_only_hint else "adds"
            assert TOOLS[name] == ("destroys" if tool.annotations.destructive_hint else kind)


@both
async def test_life_of_a_sandbox(api: RunningApi, connected: Connected) -> None:
    """Made, used, paused, resumed, forked and ended; each answer is structured."""
    async with connected(api) as client:
        sandbox = await created(client, metadata={"task": "7"}, network="restricted")
        ran = content(await client.call_tool("run_shell", {"sandbox_id": sandbox, "command": "echo hello"}))
        assert (ran["exit_code"], ran["stdout"]) == (0, "hello\n")
        written = {"sandbox_id": sandbox, "path": "/workspace/a.txt", "content": "größe"}
        assert content(await client.call_tool("write_file", written))["bytes_written"] == 7
        read = content(await client.call_tool("read_file", {"sandbox_id": sandbox, "path": "/workspace/a.txt"}))
        assert (read["content"], read["encoding"], read["next_offset"]) == ("größe", "utf-8", None)
        listed = content(await client.call_tool("list_files", {"sandbox_id": sandbox}))
        assert [entry["name"] for entry in listed["entries"]] == ["a.txt"]
        assert content(await client.call_tool("pause_sandbox", {"sandbox_id": sandbox}))["id"] == sandbox
        paused = content(await client.call_tool("list_sandboxes", {"status": "paused", "metadata": {"task": "7"}}))
        assert [each["id"] for each in paused["sandboxes"]] == [sandbox]
        assert content(await client.call_tool("resume_sandbox", {"sandbox_id": sandbox}))["status"] == "running"
        forked = content(await client.call_tool("fork_sandbox", {"sandbox_id": sandbox, "count": 2}))
        assert len({each["id"] for each in forked["sandboxes"]} - {sandbox}) == 2
        url = content(await client.call_tool("get_preview_url", {"sandbox_id": sandbox, "port": 3000}))["url"]
        port = httpx2.URL(api.url).port
        assert url.startswith(f"http://3000-{sandbox.removeprefix('sbx_').lower()}.")
        assert f":{port}/?terp_preview_token=" in url
        assert content(await client.call_tool("egress_log", {"sandbox_id": sandbox})) == {"connections": []}
        assert content(await client.call_tool("terminate_sandbox", {"sandbox_id": sandbox}))["terminated"]
        assert "state_conflict" in problem(
            await client.call_tool("run_shell", {"sandbox_id": sandbox, "command": "pwd"})
        )


async def test_files_are_resources(api: RunningApi) -> None:
    async with over_http(api) as client:
        sandbox = await created(client)
        await client.call_tool("write_file", {"sandbox_id": sandbox, "path": "/workspace/a b.txt", "content": "x"})
        assert [t.name for t in (await client.list_resource_templates()).resource_templates] == ["file"]

        found = await client.read_resource(f"terp://{sandbox}/workspace/a%20b.txt")

        assert isinstance(found.contents[0], TextResourceContents)
        assert found.contents[0].text == "x"
        with pytest.raises(MCPError, match="file_not_found"):
            await client.read_resource(f"terp://{sandbox}/workspace/none")


async def test_long_output_is_shortened_and_kept(api: RunningApi) -> None:
    """The middle is left out, and the result says which file has all of it."""
    async with over_http(api) as client:
        sandbox = await created(client)

        ran = content(await client.call_tool("run_shell", {"sandbox_id": sandbox, "command": "bytes 100000"}))

        assert len(ran["stdout"]) < running.SHOWN_CHARS + 200
        assert ran["full_stdout"] in ran["stdout"]
        read = {"sandbox_id": sandbox, "path": ran["full_stdout"], "offset": 90_000}
        rest = content(await client.call_tool("read_file", read))
        assert (rest["size"], rest["next_offset"]) == (100_000, None)
        assert ran["stdout"].endswith(rest["content"])


@both
async def test_progress(api: RunningApi, connected: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it is told how long a command takes by now."""
    async with connected(api) as client:
        monkeypatch.setattr(running, "PROGRESS_EVERY_S", 0.01)
        sandbox = await created(client)
        told: list[tuple[float, float | None]] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total))
            api.node.released["go"].set()

        call = {"sandbox_id": sandbox, "command": "wait go", "timeout_seconds": 50}
        content(await client.call_tool("run_shell", call, progress_callback=on_progress))

        assert told[0][1] == 50


@both
async def test_cancelling_kills_the_command(
    api: RunningApi, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(api) as client:
        sandbox = await created(client)
        signals: list[tuple[str, int]] = []

        async def signal(sandbox_id: str, exec_id: str, number: int) -> None:
            signals.append((sandbox_id, number))

        monkeypatch.setattr(api.node, "signal", signal)
        call = asyncio.create_task(client.call_tool("run_shell", {"sandbox_id": sandbox, "command": "hang"}))
        await until(lambda: bool(api.node.machines[sandbox].memory.commands))  # type: ignore[index]

        call.cancel()

        await until(lambda: (sandbox, 15) in signals)


async def test_images_of_code_are_image_content(api: RunningApi) -> None:
    async with over_http(api) as client:
        sandbox = await created(client)
        png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
        api.node.code.tells = [CodeResult(ResultType.IMAGE_PNG, text="<Figure>", png=png), CodeDone("default", 1, 5)]

        result = await client.call_tool("run_code", {"sandbox_id": sandbox, "code": "plot()"})

        assert content(result)["results"] == ["<Figure>"]
        image = result.content[1]
        assert isinstance(image, ImageContent)
        assert (image.data, image.mime_type) == (png, "image/png")


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("run_shell", {"sandbox_id": "sbx_none", "command": "pwd"}, "sandbox_not_found"),
        ("create_sandbox", {"template": "none"}, "template_not_found"),
        ("create_sandbox", {"size": "giant"}, "invalid_request"),
        ("create_sandbox", {"network": "everything"}, "network"),
    ],
)
async def test_errors_say_what_to_do(api: RunningApi, tool: str, arguments: dict[str, Any], expected: str) -> None:
    async with over_http(api) as client:
        assert expected in problem(await client.call_tool(tool, arguments))


async def test_keys_bound_what_is_seen(api: RunningApi) -> None:
    """Another tenant's sandboxes do not exist, and a key that may only read changes nothing."""
    async with over_http(api) as client:
        sandbox = await created(client)
    async with over_http(api, await api.key(tenant="stranger", scopes={"sandboxes:read", "sandboxes:write"})) as client:
        assert content(await client.call_tool("list_sandboxes", {}))["sandboxes"] == []
        assert "sandbox_not_found" in problem(await client.call_tool("list_files", {"sandbox_id": sandbox}))
    async with over_http(api, await api.key(scopes={"sandboxes:read"})) as client:
        assert len(content(await client.call_tool("list_sandboxes", {}))["sandboxes"]) == 1
        assert "sandboxes:write" in problem(await client.call_tool("terminate_sandbox", {"sandbox_id": sandbox}))


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "curl", "version": "8"}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def test_plain_requests(api: RunningApi) -> None:
    """As with curl: initialize, take the session's id, list the tools. Another key does not get into that session."""
    path = "/api/sandboxes/mcp"
    begun = await api.client.post(path, json=INITIALIZE, headers=ACCEPT)
    assert begun.status_code == 200
    data = next(line for line in begun.text.splitlines() if line.startswith("data: {"))
    assert json.loads(data[6:])["result"]["serverInfo"]["name"] == "terp"
    session = {**ACCEPT, "mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await api.client.post(path, json=ready, headers=session)).status_code == 202
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    assert "run_shell" in (await api.client.post(path, json=listing, headers=session)).text
    async with await api.as_key(await api.key(name="another")) as other:
        assert (await other.post(path, json=listing, headers=session)).status_code == 404


async def test_without_a_key(api: RunningApi) -> None:
    answer = await api.client.post("/api/sandboxes/mcp", json=INITIALIZE, headers={**ACCEPT, "authorization": ""})
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"


async def test_sessions_of_a_tenant_are_bounded(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens too many is refused further ones; others are not."""
    monkeypatch.setattr(endpoint, "MAX_OF_TENANT", 1)
    path = "/api/sandboxes/mcp"
    assert (await api.client.post(path, json=INITIALIZE, headers=ACCEPT)).status_code == 200
    refused = await api.client.post(path, json=INITIALIZE, headers=ACCEPT)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    async with await api.as_key(await api.key(tenant="another")) as other:
        assert (await other.post(path, json=INITIALIZE, headers=ACCEPT)).status_code == 200
