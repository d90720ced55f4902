"""The tools over the Model Context Protocol in real machines, from the protocol's official client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent
from support.server import Server

pytestmark = pytest.mark.vm

PLOT = "import matplotlib.pyplot as plt\nplt.plot(rows)\nplt.show()"


@dataclass
class ScriptedModel:
    """Decides on the next call by what the last one gave, as a model does; None when it is done."""

    script: list[Callable[[Any], tuple[str, dict[str, Any]] | None]]

    async def work(self, client: Client) -> list[CallToolResult]:
        offered = {tool.name for tool in (await client.list_tools()).tools}
        results: list[CallToolResult] = []
        for step in self.script:
            name, arguments = step(results[-1].structured_content if results else None) or ("", {})
            assert name in offered
            results.append(await client.call_tool(name, arguments))
            assert not results[-1].is_error, results[-1].content
        return results


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    http = httpx2.AsyncClient(headers={"authorization": f"Bearer {server.api_key}"}, trust_env=False, timeout=300)
    async with http, Client(streamable_http_client(f"{server.url}/api/sandboxes/mcp", http_client=http)) as client:
        yield client


async def test_agent_loop(server: Server) -> None:
    """From nothing to a plot, over a pause, in a sandbox that the agent makes and ends itself."""
    sandbox = ""

    def made(answer: Any) -> tuple[str, dict[str, Any]]:
        nonlocal sandbox
        sandbox = answer["id"]
        return "write_file", {"sandbox_id": sandbox, "path": "/workspace/rows.csv", "content": "1\n4\n9\n"}

    def say(tool: str, **arguments: object) -> Callable[[Any], tuple[str, dict[str, Any]]]:
        return lambda _: (tool, {"sandbox_id": sandbox, **arguments})

    model = ScriptedModel(
        [
            lambda _: ("create_sandbox", {"template": "code-interpreter", "timeout_seconds": 1200}),
            made,
            say("run_shell", command="wc -l < rows.csv"),
            say("run_code", code="rows = [int(row) for row in open('/workspace/rows.csv')]\nsum(rows)"),
            say("pause_sandbox"),
            say("resume_sandbox"),
            say("run_code", code=PLOT, timeout_seconds=120),
            say("terminate_sandbox"),
        ]
    )

    async with connected(server) as client:
        results = await model.work(client)

    assert results[2].structured_content["stdout"].strip() == "3"
    assert results[3].structured_content["results"] == ["14"]
    image = results[6].content[1]
    assert isinstance(image, ImageContent)
    assert base64.b64decode(image.data).startswith(b"\x89PNG\r\n\x1a\n")


async def test_cancelled_command_is_gone_from_the_guest(server: Server) -> None:
    """With all that it started."""
    with server.create("debian-12") as sandbox:
        async with connected(server) as client:
            command = "sleep 987 & touch /tmp/started; wait"
            call = asyncio.create_task(client.call_tool("run_shell", {"sandbox_id": sandbox.id, "command": command}))
            while sandbox.exec("test -e /tmp/started").exit_code != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

            call.cancel()

            while sandbox.exec("pgrep -f 'sleep 98[7]'").exit_code == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
