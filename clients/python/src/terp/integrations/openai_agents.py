"""
A sandbox as tools of an agent of the OpenAI Agents SDK. Needs the extra `openai-agents`.

    async with await AsyncSandbox.create() as sbx:
        agent = Agent(name="Coder", tools=sandbox_tools(sbx))
        result = await Runner.run(agent, "What is the 50th prime?")

For the SDK's own `SandboxAgent`, whose sandboxes it creates and ends itself, see `openai_sandbox`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from terp import AsyncSandbox
from terp.errors import InvalidRequest
from terp.integrations.arguments import parsed
from terp.integrations.shown import Output
from terp.integrations.tools import Tool, chosen

try:
    from agents import FunctionTool, ToolOutputImage, ToolOutputText
    from agents.tool_context import ToolContext
except ImportError as missing:
    raise ImportError(
        "terp.integrations.openai_agents needs more packages: pip install 'terp[openai-agents]'"
    ) from missing


def sandbox_tools(sandbox: AsyncSandbox, names: Iterable[str] | None = None) -> list[FunctionTool]:
    """
    Return the tools of one sandbox.

    Args:
        names: Which, and in which order; all if not given.
    """
    return [_tool(sandbox, tool) for tool in chosen(names)]


def _tool(sandbox: AsyncSandbox, tool: Tool) -> FunctionTool:
    async def invoke(_: ToolContext[Any], arguments: str) -> str | list[ToolOutputText | ToolOutputImage]:
        try:
            given = parsed(arguments)
        except InvalidRequest as error:
            return error.detail
        return _content(await tool.call_async(sandbox, given))

    # Strict schemas have neither optional arguments nor objects of any keys.
    return FunctionTool(tool.name, tool.description, dict(tool.schema), invoke, strict_json_schema=False)


def _content(output: Output) -> str | list[ToolOutputText | ToolOutputImage]:
    if not output.images:
        return output.text
    images = [base64.b64encode(png).decode() for png in output.images]
    return [
        ToolOutputText(text=output.text),
        *(ToolOutputImage(image_url=f"data:image/png;base64,{png}") for png in images),
    ]
