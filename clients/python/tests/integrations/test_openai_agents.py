"""Agents of the OpenAI Agents SDK with a scripted model."""

from __future__ import annotations

import json

import pytest
from agents import Agent, OpenAIResponsesModel, RunConfig, Runner
from openai import AsyncOpenAI
from support.scripted_model import ScriptedModel, openai_turn

from terp import InvalidRequest
from terp.integrations.openai_agents import sandbox_tools

UNTRACED = RunConfig(tracing_disabled=True)


async def test_an_agent_uses_the_sandbox(server, async_sandbox, plotted) -> None:
    server.exec(server.started, server.chunk(b"hi\n"), server.exited())
    plotted()
    server.reply(409, {"code": "state_conflict", "message": "It is paused"})
    calls = [("run_shell", {"command": "echo hi"}), ("run_code", {"code": "plot()"}), ("list_files", {})]
    turns = [*(openai_turn(call) for call in calls), openai_turn(text="done")]
    with ScriptedModel(*turns) as model:
        async with AsyncOpenAI(api_key="k", base_url=model.url, max_retries=0) as client:
            agent = Agent(
                "Coder", model=OpenAIResponsesModel("scripted", client), tools=[*sandbox_tools(async_sandbox)]
            )
            result = await Runner.run(agent, "go", run_config=UNTRACED)

    assert result.final_output == "done"
    assert model.asked[0]["tools"][0]["name"] == "run_shell"
    ran, drew, refused = (asked["input"][-1]["output"] for asked in model.asked[1:])
    assert json.loads(ran)["stdout"] == "hi\n"
    assert [part["type"] for part in drew] == ["input_text", "input_image"]
    assert drew[1]["image_url"] == "data:image/png;base64,iVBORw0K"
    assert refused == "It is paused (state_conflict)"


async def test_what_is_no_json_is_told_to_the_model(async_sandbox) -> None:
    (tool,) = sandbox_tools(async_sandbox, ["run_shell"])

    told = await tool.on_invoke_tool(None, "{")

    assert told.startswith("The arguments are not JSON")


def test_there_is_no_tool_of_another_name(async_sandbox) -> None:
    with pytest.raises(InvalidRequest, match="No such tool: fly"):
        sandbox_tools(async_sandbox, ["fly"])
