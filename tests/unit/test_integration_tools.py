"""The SDK's tools for agents and the server's over MCP are the same tools: an agent that knows one knows the other."""

from __future__ import annotations

from typing import Any, cast

import pytest
from terp.integrations.tools import TOOLS, Tool

from terpd.api.mcp.server import build_server
from terpd.control.services import Services


@pytest.fixture
async def served() -> dict[str, Any]:
    server = build_server(cast("Services", None))  # asked for their services when they are called
    return {tool.name: tool for tool in await server.list_tools()}


@pytest.mark.parametrize("ours", TOOLS, ids=[tool.name for tool in TOOLS])
def test_names_and_arguments_are_those_of_mcp(served: dict[str, Any], ours: Tool) -> None:
    """But for the id of the sandbox, which a tool of the SDK has already."""
    theirs = served[ours.name].input_schema
    properties = {name: wanted(theirs, each) for name, each in theirs["properties"].items() if name != "sandbox_id"}

    assert {name: wanted(ours.schema, each) for name, each in ours.schema["properties"].items()} == properties
    assert set(ours.schema["required"]) == set(theirs["required"]) - {"sandbox_id"}


def wanted(schema: Any, described: Any) -> dict[str, Any]:
    """What a value must be, without what the two say about it in words."""
    if "$ref" in described:
        described = {**described, **schema["$defs"][described["$ref"].rpartition("/")[2]]}
    kinds = [kind for kind in described.get("anyOf", [described]) if kind.get("type") != "null"]
    kept = {key: kinds[0][key] for key in ("type", "enum", "minimum", "maximum") if key in kinds[0]}
    return {**kept, "default": described.get("default")}
