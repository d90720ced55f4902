"""Anthropic's client with a scripted model: the plain loop, and the loop that the client brings."""

from __future__ import annotations

import base64

import anthropic
import pytest
from support.scripted_model import ScriptedModel, anthropic_turn

from terp.integrations.anthropic import AsyncSandboxTools, SandboxTools

ASKED = {"model": "scripted", "max_tokens": 100}
QUESTION = [{"role": "user", "content": "go"}]


@pytest.fixture
def model():
    with ScriptedModel() as model:
        yield model


def client_of(model):
    return anthropic.Anthropic(api_key="k", base_url=model.url, max_retries=0)


def test_the_model_is_told_the_tools_and_their_results(server, sandbox, plotted) -> None:
    server.exec(server.started, server.chunk(b"hi\n"), server.exited())
    plotted()
    turn = anthropic_turn(("run_shell", {"command": "echo hi"}), ("run_code", {"code": "plot()"}), ("fly", {}))
    tools = SandboxTools(sandbox)
    with ScriptedModel(turn) as model, client_of(model) as client:
        message = client.messages.create(**ASKED, messages=QUESTION, tools=tools.definitions)

    results = [tools.dispatch(block) for block in message.content if block.type == "tool_use"]

    assert [tool["name"] for tool in model.asked[0]["tools"]][:2] == ["run_shell", "run_code"]
    assert model.asked[0]["tools"][0]["input_schema"]["required"] == ["command"]
    assert [result["tool_use_id"] for result in results] == ["toolu_0", "toolu_1", "toolu_2"]
    assert '"stdout": "hi\\n"' in results[0]["content"][0]["text"]
    assert base64.b64decode(results[1]["content"][1]["source"]["data"]).startswith(b"\x89PNG")
    assert results[2]["is_error"]
    assert results[2]["content"][0]["text"].startswith("There is no tool fly; there are run_shell")


def test_the_clients_own_loop_runs_the_tools(server, sandbox, plotted) -> None:
    plotted()
    server.reply(409, {"code": "state_conflict", "message": "It is paused"})
    turns = [
        anthropic_turn(("run_code", {"code": "plot()"}), ("run_shell", {"command": "x"})),
        anthropic_turn(text="done"),
    ]
    with ScriptedModel(*turns) as model, client_of(model) as client:
        last = client.beta.messages.tool_runner(
            **ASKED, messages=QUESTION, tools=SandboxTools(sandbox, ["run_code", "run_shell"]).runnable
        ).until_done()

    assert last.content[0].text == "done"
    good, bad = model.asked[1]["messages"][-1]["content"]
    assert [block["type"] for block in good["content"]] == ["text", "image"]
    assert (bad["is_error"], bad["content"]) == (True, "It is paused (state_conflict)")


async def test_the_same_without_blocking(server, async_sandbox) -> None:
    server.exec(server.started, server.chunk(b"hi\n"), server.exited())
    server.exec(server.started, server.chunk(b"ho\n"), server.exited())
    turns = [anthropic_turn(("run_shell", {"command": "echo hi"})), anthropic_turn(text="done")]
    tools = AsyncSandboxTools(async_sandbox)
    with ScriptedModel(turns[0], *turns) as model:
        async with anthropic.AsyncAnthropic(api_key="k", base_url=model.url, max_retries=0) as client:
            message = await client.messages.create(**ASKED, messages=QUESTION, tools=tools.definitions)
            result = await tools.dispatch(message.content[0])
            last = await client.beta.messages.tool_runner(**ASKED, messages=QUESTION, tools=tools.runnable).until_done()

    assert "hi" in result["content"][0]["text"]
    assert last.content[0].text == "done"
    assert "ho" in model.asked[2]["messages"][-1]["content"][0]["content"][0]["text"]
