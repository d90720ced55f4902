"""
A sandbox as tools of LangChain and LangGraph. Needs the extra `langchain`.

    with Sandbox.create() as sbx:
        agent = create_agent(model, tools=SandboxToolkit(sandbox=sbx).get_tools())

A `Sandbox` serves both `invoke` and `ainvoke`, an `AsyncSandbox` `ainvoke` alone.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict

from terp import AsyncSandbox, Sandbox
from terp.integrations.shown import Output
from terp.integrations.tools import Tool, chosen

try:
    from langchain_core.tools import BaseTool, BaseToolkit, StructuredTool, ToolException
except ImportError as missing:
    raise ImportError("terp.integrations.langchain needs more packages: pip install 'terp[langchain]'") from missing


class SandboxToolkit(BaseToolkit):
    """
    The tools of one sandbox.

    Attributes:
        names: Which, and in which order; None for all.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    sandbox: Sandbox | AsyncSandbox
    names: Sequence[str] | None = None

    def get_tools(self) -> list[BaseTool]:
        return [_tool(self.sandbox, tool) for tool in chosen(self.names)]


def _tool(sandbox: Sandbox | AsyncSandbox, tool: Tool) -> BaseTool:
    def run(**arguments: Any) -> list[dict[str, str]]:
        assert isinstance(sandbox, Sandbox)
        return _content(tool.call(sandbox, arguments))

    async def run_async(**arguments: Any) -> list[dict[str, str]]:
        assert isinstance(sandbox, AsyncSandbox)
        return _content(await tool.call_async(sandbox, arguments))

    # Without a coroutine, LangChain runs the function in a thread where it is awaited.
    return StructuredTool(
        name=tool.name,
        description=tool.description,
        args_schema=dict(tool.schema),
        func=run if isinstance(sandbox, Sandbox) else None,
        coroutine=run_async if isinstance(sandbox, AsyncSandbox) else None,
        handle_tool_error=True,
    )


def _content(output: Output) -> list[dict[str, str]]:
    """
    Return a message's content in LangChain's own blocks, which its models translate.

    Raises:
        ToolException: It becomes a message to the model with the status of an error.
    """
    if output.is_error:
        raise ToolException(output.text)
    images = [base64.b64encode(png).decode() for png in output.images]
    return [
        {"type": "text", "text": output.text},
        *({"type": "image", "base64": png, "mime_type": "image/png"} for png in images),
    ]
