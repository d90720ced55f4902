"""
A sandbox as tools of Anthropic's Messages API. Needs the extra `anthropic`.

    with Sandbox.create() as sbx:
        tools = SandboxTools(sbx)
        message = client.messages.create(..., tools=tools.definitions, messages=messages)
        results = [tools.dispatch(block) for block in message.content if block.type == "tool_use"]

`runnable` is for `client.beta.messages.tool_runner(tools=...)`, which has the loop in it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from terp import AsyncSandbox, Sandbox
from terp.integrations.claude import BASH, EDITOR, TYPES
from terp.integrations.shown import Output
from terp.integrations.tools import Tool, chosen, unknown

try:
    from anthropic.lib.tools import BetaAsyncBuiltinFunctionTool, BetaBuiltinFunctionTool, ToolError
    from anthropic.types import ToolResultBlockParam, ToolUnionParam, ToolUseBlock
    from anthropic.types.beta import BetaToolUnionParam
except ImportError as missing:
    raise ImportError("terp.integrations.anthropic needs more packages: pip install 'terp[anthropic]'") from missing


class SandboxTools:
    """
    The tools of one sandbox.

    Args:
        names: Which, and in which order; all but Claude's own if not given. Those are `bash`, a shell that lasts from
            call to call, and `str_replace_based_edit_tool`, which changes parts of files.
    """

    def __init__(self, sandbox: Sandbox, names: Iterable[str] | None = None) -> None:
        self._sandbox = sandbox
        self._tools = {tool.name: tool for tool in chosen(names, (BASH, EDITOR))}

    @property
    def definitions(self) -> list[ToolUnionParam]:
        """What `messages.create` takes as its `tools`."""
        return _definitions(self._tools.values())

    def dispatch(self, use: ToolUseBlock) -> ToolResultBlockParam:
        """Do what the model asked for, and return the block that answers it. What went wrong is in that, too."""
        tool = self._tools.get(use.name)
        return _result(use, tool.call(self._sandbox, use.input) if tool else unknown(use.name, self._tools))

    @property
    def runnable(self) -> list[BetaBuiltinFunctionTool]:
        """What `beta.messages.tool_runner` takes as its `tools`."""
        return [_Runnable(self._sandbox, tool) for tool in self._tools.values()]


class AsyncSandboxTools:
    """
    The tools of one sandbox, for `AsyncAnthropic`.

    Args:
        names: Which, and in which order; all but Claude's own if not given. Those are `bash`, a shell that lasts from
            call to call, and `str_replace_based_edit_tool`, which changes parts of files.
    """

    def __init__(self, sandbox: AsyncSandbox, names: Iterable[str] | None = None) -> None:
        self._sandbox = sandbox
        self._tools = {tool.name: tool for tool in chosen(names, (BASH, EDITOR))}

    @property
    def definitions(self) -> list[ToolUnionParam]:
        """What `messages.create` takes as its `tools`."""
        return _definitions(self._tools.values())

    async def dispatch(self, use: ToolUseBlock) -> ToolResultBlockParam:
        """Do what the model asked for, and return the block that answers it. What went wrong is in that, too."""
        tool = self._tools.get(use.name)
        return _result(use, await tool.call_async(self._sandbox, use.input) if tool else unknown(use.name, self._tools))

    @property
    def runnable(self) -> list[BetaAsyncBuiltinFunctionTool]:
        """What `beta.messages.tool_runner` takes as its `tools`."""
        return [_AsyncRunnable(self._sandbox, tool) for tool in self._tools.values()]


class _Runnable(BetaBuiltinFunctionTool):
    def __init__(self, sandbox: Sandbox, tool: Tool) -> None:
        self._sandbox = sandbox
        self._tool = tool

    def to_dict(self) -> BetaToolUnionParam:
        definition: BetaToolUnionParam = _definition(self._tool)
        return definition

    def call(self, input: object) -> list[Any]:  # noqa: A002 - the name is theirs
        return _succeeded(self._tool.call(self._sandbox, input))


class _AsyncRunnable(BetaAsyncBuiltinFunctionTool):
    def __init__(self, sandbox: AsyncSandbox, tool: Tool) -> None:
        self._sandbox = sandbox
        self._tool = tool

    def to_dict(self) -> BetaToolUnionParam:
        definition: BetaToolUnionParam = _definition(self._tool)
        return definition

    async def call(self, input: object) -> list[Any]:  # noqa: A002 - the name is theirs
        return _succeeded(await self._tool.call_async(self._sandbox, input))


def _definitions(tools: Iterable[Tool]) -> list[ToolUnionParam]:
    return [_definition(tool) for tool in tools]


def _definition(tool: Tool) -> Any:
    """As a plain dict: the types of the beta API differ in name alone. What Claude was taught has a type instead."""
    if tool.name in TYPES:
        return {"type": TYPES[tool.name], "name": tool.name}
    return {"name": tool.name, "description": tool.description, "input_schema": dict(tool.schema)}


def _result(use: ToolUseBlock, output: Output) -> ToolResultBlockParam:
    return {
        "type": "tool_result",
        "tool_use_id": use.id,
        "content": _blocks(output),
        "is_error": output.is_error,
    }


def _succeeded(output: Output) -> list[Any]:
    """Raises ToolError for what the runner has to mark as one."""
    if output.is_error:
        raise ToolError(output.text)
    return _blocks(output)


def _blocks(output: Output) -> list[Any]:
    images = [base64.b64encode(png).decode() for png in output.images]
    return [
        {"type": "text", "text": output.text},
        *({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}} for png in images),
    ]
