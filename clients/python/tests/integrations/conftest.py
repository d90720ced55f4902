"""Sandboxes of a server that plays a script."""

from __future__ import annotations

import base64

import pytest

from terp import AsyncSandbox, AsyncTerp, Sandbox, Terp

PNG = b"\x89PNG\r\n"


@pytest.fixture
def sandbox(server):
    with Terp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield Sandbox.create(client=client)


@pytest.fixture
async def async_sandbox(server):
    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield await AsyncSandbox.create(client=client)


@pytest.fixture
def plotted(server):
    """The server's answer to code that draws."""
    image = {"type": "image_png", "png": base64.b64encode(PNG).decode()}
    done = {"kind": "done", "error": None, "execution_count": 1, "context_id": "default", "duration_ms": 3}
    rest = {"interrupted": False, "restarted": False, "truncated": []}

    def reply() -> None:
        server.exec({"kind": "result", "result": image}, {**done, **rest})

    return reply
