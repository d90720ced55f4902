"""The toolkit, with LangChain's own way to call tools."""

from __future__ import annotations

import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool

from terp.integrations.langchain import SandboxToolkit


def call(name, **arguments):
    return {"type": "tool_call", "id": "call_1", "name": name, "args": arguments}


def tools_of(sandbox):
    return {tool.name: tool for tool in SandboxToolkit(sandbox=sandbox).get_tools()}


def test_a_call_becomes_a_message(server, sandbox, plotted) -> None:
    server.exec(server.started, server.chunk(b"hi\n"), server.exited())
    plotted()
    tools = tools_of(sandbox)

    ran = tools["run_shell"].invoke(call("run_shell", command="echo hi"))
    drew = tools["run_code"].invoke(call("run_code", code="plot()"))

    assert (ran.tool_call_id, ran.status) == ("call_1", "success")
    assert '"stdout": "hi\\n"' in ran.content[0]["text"]
    assert drew.content[1] == {"type": "image", "base64": "iVBORw0K", "mime_type": "image/png"}


async def test_both_kinds_of_sandboxes_serve_ainvoke(server, sandbox, async_sandbox) -> None:
    for kind in (sandbox, async_sandbox):
        server.exec(server.started, server.chunk(b"hi\n"), server.exited())

        ran = await tools_of(kind)["run_shell"].ainvoke(call("run_shell", command="echo hi"))

        assert '"stdout": "hi\\n"' in ran.content[0]["text"]


def test_errors_are_told_to_the_model(server, sandbox) -> None:
    server.reply(409, {"code": "state_conflict", "message": "It is paused"})
    run_shell = tools_of(sandbox)["run_shell"]

    refused = run_shell.invoke(call("run_shell", command="x"))
    wrong = run_shell.invoke(call("run_shell"))

    assert (refused.status, refused.content) == ("error", "It is paused (state_conflict)")
    assert (wrong.status, wrong.content) == ("error", "command is missing: A line for bash (invalid_request)")


def test_an_asynchronous_sandbox_does_not_serve_invoke(async_sandbox) -> None:
    with pytest.raises(NotImplementedError):
        tools_of(async_sandbox)["run_shell"].invoke(call("run_shell", command="x"))


def test_models_get_the_schemas(sandbox) -> None:
    described = convert_to_openai_tool(tools_of(sandbox)["read_file"])["function"]

    assert described["name"] == "read_file"
    assert described["parameters"]["properties"]["limit"]["maximum"] == 256 * 1024
