"""Agents of three frameworks in real machines; what their models say is written beforehand."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agents.sandbox import (
    ExecTimeoutError,
    ExposedPortUnavailableError,
    Manifest,
    SandboxError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.entries import File
from agents.sandbox.manifest import Environment
from agents.sandbox.session import SandboxSession
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from support.scripted_model import ScriptedModel, anthropic_turn, openai_turn
from support.server import Server
from terp import AsyncTerp
from terp.integrations.claude import BASH, EDITOR
from terp.integrations.openai_sandbox import TerpSandboxClient, TerpSandboxClientOptions, TerpSandboxSessionState
from terp.integrations.tools import Tool

pytestmark = pytest.mark.vm

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"
PLOT = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 4, 9])\nplt.show()"


def run(example: str, server: Server, **environ: str) -> str:
    """Run an example as its reader would, and return what it printed."""
    ours = {"TERP_BASE_URL": server.url, "TERP_API_KEY": server.api_key, "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example)],
        env={**os.environ, **ours, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_anthropic(server: Server) -> None:
    """The plain loop: files, a kernel that keeps its variables, a plot as an image, an error the model can read."""
    turns = [
        anthropic_turn(
            ("write_file", {"path": "/workspace/x.txt", "content": "20"}),
            ("run_code", {"code": "x = int(open('x.txt').read())"}),
            ("run_code", {"code": f"print(x + 22)\n{PLOT}"}),
            ("read_file", {"path": "/workspace/missing"}),
        ),
        anthropic_turn(text="It is 42."),
    ]
    with ScriptedModel(*turns) as model:
        printed = run("anthropic_loop.py", server, ANTHROPIC_BASE_URL=model.url, ANTHROPIC_API_KEY="k")

    assert printed == "It is 42.\n"
    results = model.asked[1]["messages"][-1]["content"]
    assert [result["is_error"] for result in results] == [False, False, False, True]
    shown, image = results[2]["content"]
    assert json.loads(shown["text"])["stdout"] == "42\n"
    assert image["source"]["data"].startswith("iVBORw0KGgo")
    assert "/workspace/missing" in results[3]["content"][0]["text"]


def test_claudes_own_tools(server: Server) -> None:
    """A shell that lasts from call to call, and an editor that keeps a file's mode."""
    with server.create("code-interpreter") as sandbox:

        def told(tool: Tool, **arguments: object) -> str:
            return tool.call(sandbox, arguments).text

        told(EDITOR, command="create", path="/workspace/a/run.sh", file_text="echo one\n")
        told(BASH, command="cd a; chmod +x run.sh; greeting=hello")
        told(EDITOR, command="str_replace", path="/workspace/a/run.sh", old_str="one", new_str="two")
        told(EDITOR, command="insert", path="/workspace/a/run.sh", insert_line=0, insert_text="#!/bin/sh")

        assert told(BASH, command="./run.sh; echo $greeting; false") == "two\nhello\n[exit code 1]"
        assert told(EDITOR, command="view", path="/workspace/a/run.sh") == "     1\t#!/bin/sh\n     2\techo two"
        assert told(EDITOR, command="view", path="/workspace") == "a/"
        told(BASH, restart=True)
        assert told(BASH, command="pwd; echo $greeting") == "/workspace"


def test_openai_agents(server: Server) -> None:
    """Tools of one sandbox; output that is too long is in a file that another tool reads."""
    turns = [
        openai_turn(("run_shell", {"command": "seq 100000 > n; cat n; exit 3"})),
        openai_turn(("run_code", {"code": PLOT}), ("list_files", {"path": "/workspace"})),
        openai_turn(text="done"),
    ]
    with ScriptedModel(*turns) as model:
        printed = run("openai_agent.py", server, OPENAI_BASE_URL=model.url, OPENAI_API_KEY="k")

    assert printed == "done\n"
    ran = json.loads(model.asked[1]["input"][-1]["output"])
    assert ran["exit_code"] == 3
    assert f"all of it is in {ran['full_stdout']}" in ran["stdout"]
    drew, listed = (item["output"] for item in model.asked[2]["input"][-2:])
    assert drew[1]["image_url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert [entry["name"] for entry in json.loads(listed)["entries"]] == ["n"]


def test_openai_sandbox_agent(server: Server) -> None:
    """The SDK's own shell in a machine that it made, with its manifest there, and that is gone afterwards."""
    before = {sandbox.id for sandbox in server.list()}
    turns = [openai_turn(("exec_command", {"cmd": "cat notes.txt; uname -s; pwd"})), openai_turn(text="42")]
    with ScriptedModel(*turns) as model:
        printed = run("openai_sandbox_agent.py", server, OPENAI_BASE_URL=model.url, OPENAI_API_KEY="k")

    assert printed == "42\n"
    output = model.asked[1]["input"][-1]["output"]
    assert "Process exited with code 0" in output
    assert "The answer is 42.\nLinux\n/workspace\n" in output
    (made,) = [sandbox for sandbox in server.list() if sandbox.id not in before]
    assert made.status == "terminated"


class Scripted(GenericFakeChatModel):
    """Says what is written, whatever tools it has."""

    def bind_tools(self, tools: Any, **_: Any) -> Scripted:
        return self


def test_langchain(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERP_BASE_URL", server.url)
    monkeypatch.setenv("TERP_API_KEY", server.api_key)
    monkeypatch.syspath_prepend(EXAMPLES)
    from langchain_loop import answer

    call = {"name": "run_shell", "args": {"command": "echo $((6 * 7))"}, "id": "1", "type": "tool_call"}
    heard = []

    class Listening(Scripted):
        def invoke(self, input: Any, *arguments: Any, **options: Any) -> AIMessage:  # noqa: A002
            heard.append(list(input))
            return super().invoke(input, *arguments, **options)

    said = answer(Listening(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("It is 42.")])), "6 * 7?")

    assert said == "It is 42."
    assert json.loads(heard[1][-1].content[0]["text"])["stdout"] == "42\n"


async def test_a_session_keeps_the_sdks_contract(server: Server) -> None:
    """Commands, terminals, files and ports of a session; paused at its end, and found again as it was."""
    async with AsyncTerp(api_key=server.api_key, base_url=server.url) as connection:
        client = TerpSandboxClient(connection)
        manifest = Manifest(
            entries={"seed.txt": File(content=b"seed")}, environment=Environment(value={"COLOUR": "red"})
        )
        options = TerpSandboxClientOptions(
            template="code-interpreter", network="off", exposed_ports=(80,), pause_on_exit=True
        )
        session = await client.create(manifest=manifest, options=options)
        try:
            async with session:
                await commands_run(session)
                await files_are_kept_inside(session)
                with pytest.raises(ExposedPortUnavailableError):  # its network is off
                    await session.resolve_exposed_port(80)
                workspace = (await session.persist_workspace()).read()
                await session.exec("nohup sleep 1000 >/dev/null 2>&1 & echo $! > pid")
            assert not await session.running()

            state = client.deserialize_session_state(
                json.loads(json.dumps(client.serialize_session_state(session.state)))
            )
            session = await client.resume(state)
            async with session:
                assert (await session.exec("kill -0 $(cat pid) && cat seed.txt")).stdout == b"seed"
                await session.exec("rm -rf seed.txt sub")
                await session.hydrate_workspace(io.BytesIO(workspace))
                assert (await session.exec("cat seed.txt sub/data.bin | wc -c")).stdout.strip() == b"260"
        finally:
            server.get(state_of(session).sandbox_id).terminate()

        gone = state_of(session).sandbox_id
        replaced = await client.resume(session.state)  # the session gets another machine
        try:
            assert state_of(replaced).sandbox_id != gone
            assert await replaced.running()
        finally:
            server.get(state_of(replaced).sandbox_id).terminate()


def state_of(session: SandboxSession) -> TerpSandboxSessionState:
    assert isinstance(session.state, TerpSandboxSessionState)
    return session.state


async def commands_run(session: SandboxSession) -> None:
    ran = await session.exec("echo $COLOUR; echo oh >&2; pwd; exit 3")
    assert (ran.stdout, ran.stderr, ran.exit_code) == (b"red\n/workspace\n", b"oh\n", 3)
    assert (await session.exec("id -un", user="nobody")).stdout == b"nobody\n"
    with pytest.raises(ExecTimeoutError):
        await session.exec("sleep 100", timeout=1)

    asking = await session.pty_exec_start("read name; echo hello $name; exit 4", tty=True, yield_time_s=0.3)
    assert asking.process_id is not None
    told = await session.pty_write_stdin(session_id=asking.process_id, chars="you\n", yield_time_s=30)
    assert b"hello you" in told.output
    assert (told.process_id, told.exit_code) == (None, 4)

    slow = await session.pty_exec_start("echo one; sleep 600", yield_time_s=2)
    assert slow.process_id is not None
    output = slow.output
    while output != b"one\n":
        assert b"one\n".startswith(output)
        output += (await session.pty_write_stdin(session_id=slow.process_id, chars="")).output


async def files_are_kept_inside(session: SandboxSession) -> None:
    content = bytes(range(256))
    await session.mkdir("sub")
    await session.write(Path("sub/data.bin"), io.BytesIO(content))
    assert (await session.read(Path("sub/data.bin"))).read() == content
    assert await session.read_bounded(Path("sub/data.bin"), max_bytes=3) == content[:3]
    with pytest.raises(WorkspaceReadNotFoundError):
        await session.read(Path("missing"))
    await session.exec("ln -s /etc/passwd outside")
    with pytest.raises(SandboxError):
        await session.read(Path("outside"))
    assert {entry.path.rpartition("/")[2] for entry in await session.ls(".")} >= {"sub", "seed.txt"}
