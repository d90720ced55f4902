"""Commands over HTTP: buffered and streamed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from support.api import RunningApi
from support.until import until

from terpd.model.ids import SandboxId


def url(sandbox_id: str) -> str:
    return f"/v1/sandboxes/{sandbox_id}/exec"


async def frames(api: RunningApi, sandbox_id: str, command: str, **body: object) -> AsyncIterator[dict[str, object]]:
    body = {"command": command, "stream": True, **body}
    async with api.client.stream("POST", url(sandbox_id), json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                assert line.isascii()
                yield json.loads(line[5:])
            elif line:
                yield {"kind": "comment", "text": line}


async def test_result_of_a_command(api: RunningApi) -> None:
    """Output, exit code and duration, for the whole body that an orkestr client sends."""
    sandbox_id = await api.create(env={"A": "from create"})
    body = {"command": "echo grüße", "cwd": "/workspace", "env": {}, "timeout_seconds": 60, "stream": False}
    answer = await api.client.post(url(sandbox_id), json=body)
    assert answer.status_code == 200
    assert answer.json() == {"stdout": "grüße\n", "stderr": "", "exit_code": 0, "duration_ms": 3}


@pytest.mark.parametrize(
    ("body", "stdout", "exit_code"),
    [
        ({"command": "exit 3"}, "", 3),
        ({"command": "cat", "stdin": "in\npüt"}, "in\npüt", 0),
        ({"command": "env A"}, "from create", 0),
        ({"command": "env A", "env": {"A": "from exec"}}, "from exec", 0),
        ({"command": "pwd", "cwd": "/tmp/../tmp/"}, "/tmp", 0),
        ({"command": "pieces fffe e282 ac"}, "\ufffd\ufffd€", 0),
    ],
)
async def test_options(api: RunningApi, body: dict[str, object], stdout: str, exit_code: int) -> None:
    """A non-zero exit is a result; stdin, env and cwd reach the command; what is no UTF-8 is replaced."""
    sandbox_id = await api.create(env={"A": "from create"})
    answer = await api.client.post(url(sandbox_id), json=body)
    assert (answer.status_code, answer.json()["stdout"], answer.json()["exit_code"]) == (200, stdout, exit_code)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"command": "x" * 1_000_000}, 413, "102400"),
        ({"command": " "}, 422, "command"),
        ({"command": "a\0b"}, 422, "NUL"),
        ({"command": "\ud800"}, 422, "command"),
        ({}, 422, "command"),
        ({"command": "echo", "cwd": "here"}, 422, "cwd"),
        ({"command": "echo", "cwd": "/nowhere"}, 422, "cwd"),
        ({"command": "echo", "env": {"A": "x" * 40_000}}, 413, "env"),
        ({"command": "echo", "timeout_seconds": 0}, 422, "timeout_seconds"),
        ({"command": "echo", "stdin": "x" * 9_000_000}, 413, "stdin"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_impossible_commands_say_why(
    api: RunningApi,
    body: dict[str, object],
    status: int,
    word: str,
    stream: bool,  # noqa: FBT001
) -> None:
    """A status and a detail that names the field, before anything runs, streamed or not."""
    sandbox_id = await api.create()
    content = json.dumps({**body, "stream": stream})
    answer = await api.client.post(url(sandbox_id), content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert word in answer.json()["detail"]


async def test_signal_and_timeout_are_errors_with_output(api: RunningApi) -> None:
    """exec_killed carries the signal, exec_timeout what the command had said."""
    sandbox_id = await api.create()
    killed = await api.client.post(url(sandbox_id), json={"command": "kill 9"})
    assert (killed.status_code, killed.json()["code"], killed.json()["signal"]) == (422, "exec_killed", 9)
    api.node.released["timeout"].set()
    late = await api.client.post(url(sandbox_id), json={"command": "hang", "timeout_seconds": 1})
    assert (late.status_code, late.json()["code"], late.json()["stdout"]) == (504, "exec_timeout", "begun\n")


async def test_output_is_kept_up_to_a_bound(api: RunningApi) -> None:
    """The first 8 MiB are returned and named as truncated; the command is not stopped for it."""
    sandbox_id = await api.create()
    body = (await api.client.post(url(sandbox_id), json={"command": f"bytes {9 * 1024 * 1024}"})).json()
    assert len(body["stdout"]) == 8 * 1024 * 1024
    assert (body["truncated"], body["exit_code"]) == (["stdout"], 0)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("wait it", {"exit_code": 0, "stdout": "begun\n"}),
        ("hang", {"exit_code": 124, "stdout": "begun\n", "code": "exec_timeout"}),
    ],
)
async def test_slow_command_drips(hasty_api: RunningApi, command: str, expected: dict[str, object]) -> None:
    """200 and spaces while it runs, then the result; a late timeout is told in the body."""
    api = hasty_api
    sandbox_id = await api.create()
    async with api.client.stream("POST", url(sandbox_id), json={"command": command}) as answer:
        pieces = answer.aiter_bytes()
        assert (answer.status_code, await anext(pieces)) == (200, b" ")
        api.node.released["it"].set()
        api.node.released["timeout"].set()
        body = json.loads(b"".join([piece async for piece in pieces]))
    assert {key: body[key] for key in expected} == expected


async def test_leaving_a_dripping_command_detaches(hasty_api: RunningApi) -> None:
    """The server stops following it and stays well; the command itself is the guest's to end."""
    api = hasty_api
    sandbox_id = await api.create()
    async with api.client.stream("POST", url(sandbox_id), json={"command": "wait it"}) as answer:
        await anext(answer.aiter_bytes())
    await until(lambda: api.node.detached)
    assert not api.node.finished


async def test_frames_of_a_command(api: RunningApi) -> None:
    """exec_started first, chunks in base64, exec_exited last."""
    sandbox_id = await api.create()
    started, chunk, exited = [frame async for frame in frames(api, sandbox_id, "err grüße")]
    assert (started["kind"], started["pid"]) == ("exec_started", 17)
    assert str(started["command_id"]).startswith("cmd_")
    assert (chunk["kind"], chunk["stream"]) == ("exec_chunk", "stderr")
    assert base64.b64decode(str(chunk["data"])).decode() == "grüße\n"
    assert exited == {"kind": "exec_exited", "code": 0, "duration_ms": 3}


async def test_chunks_are_cut_between_characters(api: RunningApi) -> None:
    """However the guest cuts its output, each chunk decodes by itself and all bytes arrive."""
    sandbox_id = await api.create()
    text = "aé€😀\u2028z"
    pieces = " ".join(f"{byte:02x}" for byte in text.encode())
    chunks = [
        base64.b64decode(str(frame["data"]))
        async for frame in frames(api, sandbox_id, f"pieces {pieces} ff e2")
        if frame["kind"] == "exec_chunk"
    ]
    assert b"".join(chunks) == text.encode() + b"\xff\xe2"
    assert "".join(chunk.decode("utf-8", "replace") for chunk in chunks) == text + "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("command", "code", "more"), [("kill 11", "exec_killed", {"signal": 11}), ("hang", "exec_timeout", {})]
)
async def test_failures_are_frames(api: RunningApi, command: str, code: str, more: dict[str, object]) -> None:
    """Once the stream has begun, a timeout or a signal is the last frame."""
    sandbox_id = await api.create()
    api.node.released["timeout"].set()
    last = [frame async for frame in frames(api, sandbox_id, command)][-1]
    assert (last["kind"], last["code"]) == ("error", code)
    assert more.items() <= last.items()


async def test_silence_is_bridged_by_comments(hasty_api: RunningApi) -> None:
    """A quiet command keeps its stream alive with lines that clients skip."""
    api = hasty_api
    sandbox_id = await api.create()
    kinds = []
    async for frame in frames(api, sandbox_id, "wait it"):
        kinds.append(frame["kind"])
        if frame["kind"] == "comment":
            api.node.released["it"].set()
    assert kinds[:2] == ["exec_started", "exec_chunk"]
    assert "comment" in kinds
    assert kinds[-1] == "exec_exited"


async def test_leaving_a_stream_detaches(api: RunningApi) -> None:
    """The iterator towards the guest is closed, though the command says nothing more."""
    sandbox_id = await api.create()
    stream = frames(api, sandbox_id, "wait it")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: api.node.detached)


async def test_slow_reader_holds_the_command_back(api: RunningApi) -> None:
    """Of 64 MiB hardly anything leaves the guest while nobody reads."""
    sandbox_id = await api.create()
    total = 64 * 1024 * 1024
    body = {"command": f"bytes {total}", "stream": True}
    async with api.client.stream("POST", url(sandbox_id), json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        before = -1
        while before != api.node.sent_bytes:
            before = api.node.sent_bytes
            await asyncio.sleep(0.05)
        assert before < total / 2


@pytest.mark.parametrize("stream", [False, True])
async def test_terminating_ends_running_commands(api: RunningApi, stream: bool) -> None:  # noqa: FBT001
    """The command's caller learns that the sandbox was terminated, and by whom; the terminate does not wait."""
    sandbox_id = await api.create()

    async def call() -> tuple[object, str]:
        if stream:
            last = [frame async for frame in frames(api, sandbox_id, "wait it")][-1]
            return last["code"], str(last["message"])
        body = (await api.client.post(url(sandbox_id), json={"command": "wait it"})).json()
        return body["code"], body["detail"]

    running = asyncio.create_task(call())
    await until(lambda: api.node.sent_bytes)
    assert (await api.client.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
    code, detail = await running
    assert code == "state_conflict"
    assert "(user)" in detail
    assert SandboxId(sandbox_id) not in api.node.machines
