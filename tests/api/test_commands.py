"""Background commands over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from support.api import RunningApi
from support.until import until

from terpd.model.ids import SandboxId

CMD = "cmd_01JG0000000000000000000000"


def url(sandbox_id: str, *more: str) -> str:
    return "/".join([f"/v1/sandboxes/{sandbox_id}/commands", *more])


async def start(api: RunningApi, sandbox_id: str, command: str, **body: object) -> str:
    answer = await api.client.post(url(sandbox_id), json={"command": command, **body})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def follow(
    api: RunningApi, sandbox_id: str, command_id: str, **query: object
) -> AsyncIterator[dict[str, object]]:
    parameters = {"follow": "true", **query}
    async with api.client.stream("GET", url(sandbox_id, command_id, "logs"), params=parameters) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line[5:])


def text(frames: list[dict[str, object]]) -> str:
    return "".join(base64.b64decode(str(each["data"])).decode() for each in frames if each["kind"] == "exec_chunk")


async def test_life_of_a_command(api: RunningApi) -> None:
    """Started, listed, looked up while it runs and after its end, which is its exit code."""
    sandbox_id = await api.create()
    answer = await api.client.post(url(sandbox_id), json={"command": "sit", "cwd": "/tmp", "env": {"A": "1"}})
    started = answer.json()
    assert answer.status_code == 201
    assert {**started, "id": CMD} == {
        "id": CMD,
        "command": "sit",
        "pid": 17,
        "status": "running",
        "exit_code": None,
        "started_at": "2026-03-01T12:00:00.123456Z",
    }
    assert (await api.client.get(url(sandbox_id))).json() == {"commands": [started]}
    api.node.command(SandboxId(sandbox_id), started["id"]).exit(3)
    ended = {**started, "status": "exited", "exit_code": 3}
    assert (await api.client.get(url(sandbox_id, started["id"]))).json() == ended
    assert (await api.client.get(url(sandbox_id))).json() == {"commands": [ended]}


async def test_kill(api: RunningApi) -> None:
    """SIGTERM does, and `killed` has no exit code; again it is nothing. What is left in its group gets SIGKILL."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    for _ in range(2):
        assert (await api.client.delete(url(sandbox_id, command_id))).status_code == 204
    command = api.node.command(SandboxId(sandbox_id), command_id)
    assert (await api.client.get(url(sandbox_id, command_id))).json()["status"] == "killed"
    assert (await api.client.get(url(sandbox_id, command_id))).json()["exit_code"] is None
    await until(lambda: command.signals == [15, 9])


async def test_kill_of_one_that_ignores_it(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL comes 2 s later, and the answer after that."""
    monkeypatch.setattr("terpd.control.end_command.GRACE_S", 0.05)
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "stubborn")
    assert (await api.client.delete(url(sandbox_id, command_id))).status_code == 204
    assert api.node.command(SandboxId(sandbox_id), command_id).signals == [15, 9]
    assert (await api.client.get(url(sandbox_id, command_id))).json()["status"] == "killed"


async def test_unknown_ones(api: RunningApi) -> None:
    """Each call says 404; a terminal is none of them."""
    sandbox_id = await api.create()
    pty = (await api.client.post(f"/v1/sandboxes/{sandbox_id}/pty")).json()["id"]
    for command_id in (CMD, pty, "nonsense"):
        answers = [
            await api.client.get(url(sandbox_id, command_id)),
            await api.client.delete(url(sandbox_id, command_id)),
        ]
        if command_id != pty:
            logs = url(sandbox_id, command_id, "logs")
            answers += [await api.client.get(logs), await api.client.get(logs, params={"follow": "true"})]
        assert [(each.status_code, each.json()["code"]) for each in answers] == [(404, "command_not_found")] * len(
            answers
        )
    assert (await api.client.get(url(sandbox_id))).json() == {"commands": []}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"command": " "}, 422, "command"),
        ({"command": "x" * 200_000}, 413, "command"),
        ({"command": "echo", "cwd": "/nowhere"}, 422, "cwd"),
        ({"command": "echo", "timeout_seconds": 5}, 422, "timeout_seconds"),
        ({"command": "echo", "secrets": {"1A": "x"}}, 422, "secrets"),
        ({"command": "echo", "secrets": {"A": "x" * 70_000}}, 413, "secrets"),
    ],
)
async def test_impossible_ones_say_why(api: RunningApi, body: dict[str, object], status: int, word: str) -> None:
    sandbox_id = await api.create()
    answer = await api.client.post(url(sandbox_id), json=body)
    assert (answer.status_code, word in answer.json()["detail"]) == (status, True), answer.text


async def test_secrets_reach_the_command_and_nothing_else(api: RunningApi, capsys: pytest.CaptureFixture[str]) -> None:
    """No log, no answer, no error's text; and there is no snapshot before the command's end unless it may have them."""
    sandbox_id = await api.create()
    secret = "open-sesame-4711"
    command_id = await start(api, sandbox_id, "env TOKEN", secrets={"TOKEN": secret})
    logs = (await api.client.get(url(sandbox_id, command_id, "logs"))).json()
    assert logs["content"] == secret
    ran = await api.client.post(
        f"/v1/sandboxes/{sandbox_id}/exec", json={"command": "env TOKEN", "secrets": {"TOKEN": secret}}
    )
    assert ran.json()["stdout"] == secret
    texts = [(await api.client.get(url(sandbox_id))).text]
    for bad in ({"TOKEN": f"{secret}\0"}, {"TOKEN": [secret]}, {"1": secret}):
        for path in (url(sandbox_id), f"/v1/sandboxes/{sandbox_id}/exec"):
            answer = await api.client.post(path, json={"command": "true", "secrets": bad})
            assert answer.status_code == 422
            texts.append(answer.text)
    await start(api, sandbox_id, "hang", secrets={"TOKEN": secret})
    snapshots = f"/v1/sandboxes/{sandbox_id}/snapshots"
    refused = [
        await api.client.post(snapshots),
        await api.client.post(f"/v1/sandboxes/{sandbox_id}/fork", json={"count": 1}),
    ]
    assert [(each.status_code, each.json()["code"]) for each in refused] == [(409, "secrets_in_use")] * 2
    assert (await api.client.post(snapshots, json={"include_secrets": True})).status_code == 201
    assert secret not in "".join(texts + [each.text for each in refused])
    captured = capsys.readouterr()
    assert secret not in captured.out + captured.err


async def test_logs_in_parts(api: RunningApi) -> None:
    """A reader that goes on by the length of what it got has every byte, whatever characters a part's end cuts."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    command = api.node.command(SandboxId(sandbox_id), command_id)
    content = "aé€😀" * 400_000
    command.write(content.encode())
    seen, offset, parts = "", 0, 0
    while True:
        page = (await api.client.get(url(sandbox_id, command_id, "logs"), params={"offset": offset})).json()
        assert page["size"] == len(content.encode())
        seen += page["content"]
        offset += len(page["content"].encode())
        parts += 1
        if not page["truncated"]:
            break
    assert seen == content
    assert parts == 4


@pytest.mark.parametrize(
    ("data", "running", "content", "truncated"),
    [
        (b"a\xff\xfe\x00b\xc3(", True, "a??\0b?(", False),
        (b"\xed\xa0\x80x", True, "???x", False),
        (b"ok\xe2\x82", True, "ok", False),
        (b"ok\xe2\x82", False, "ok??", False),
        (b"", True, "", False),
    ],
)
async def test_bytes_that_are_no_text(
    api: RunningApi,
    data: bytes,
    running: bool,  # noqa: FBT001
    content: str,
    truncated: bool,  # noqa: FBT001
) -> None:
    """One question mark each, so that offsets hold; what may still become a character is left for later."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    command = api.node.command(SandboxId(sandbox_id), command_id)
    command.write(data)
    if not running:
        command.exit()
    answer = (await api.client.get(url(sandbox_id, command_id, "logs"))).json()
    assert answer == {"content": content, "size": len(data), "truncated": truncated}


async def test_what_is_not_kept_any_more(api: RunningApi) -> None:
    """410 says from where there is more, buffered and followed."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    command = api.node.command(SandboxId(sandbox_id), command_id)
    command.write(b"0123456789")
    command.drop(4)
    for query in ({"offset": 3}, {"offset": 3, "follow": "true"}):
        answer = await api.client.get(url(sandbox_id, command_id, "logs"), params=query)
        assert (answer.status_code, answer.json()["code"], answer.json()["first_offset"]) == (410, "log_dropped", 4)
    answer = await api.client.get(url(sandbox_id, command_id, "logs"), params={"offset": 4})
    assert answer.json()["content"] == "456789"


async def test_follow(api: RunningApi) -> None:
    """What was written and what comes, never cut within a character, to the exit code."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    command = api.node.command(SandboxId(sandbox_id), command_id)
    command.write(b"before \xf0\x9f")
    frames = follow(api, sandbox_id, command_id, offset=3)
    seen = [await anext(frames), await anext(frames)]
    assert (seen[0]["kind"], seen[0]["command_id"]) == ("exec_started", command_id)
    assert (seen[1]["offset"], text(seen)) == (3, "ore ")
    command.write(b"\x98\x80!")
    command.exit(5)
    rest = [frame async for frame in frames]
    assert text(rest) == "😀!"
    assert rest[0]["offset"] == 7
    assert rest[-1] == {"kind": "exec_exited", "code": 5, "duration_ms": 5}


async def test_follow_of_a_killed_one(api: RunningApi) -> None:
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    frames = follow(api, sandbox_id, command_id)
    await anext(frames)
    await api.client.delete(url(sandbox_id, command_id))
    last = [frame async for frame in frames][-1]
    assert (last["kind"], last["code"], last["signal"]) == ("error", "exec_killed", 15)


async def test_follow_for_a_time(api: RunningApi) -> None:
    """At its end the last frame says so and where to go on; the command runs."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    api.node.command(SandboxId(sandbox_id), command_id).write(b"12345")
    seen = [frame async for frame in follow(api, sandbox_id, command_id, timeout_seconds=1)]
    assert (seen[-1]["kind"], seen[-1]["code"], seen[-1]["offset"]) == ("error", "timed_out", 5)
    assert (await api.client.get(url(sandbox_id, command_id))).json()["status"] == "running"
    for seconds in (0, 100_000):
        query = {"follow": "true", "timeout_seconds": seconds}
        answer = await api.client.get(url(sandbox_id, command_id, "logs"), params=query)
        assert answer.status_code == 422


async def test_keep_alive_while_it_is_quiet(hasty_api: RunningApi) -> None:
    api = hasty_api
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    query = {"follow": "true"}
    async with api.client.stream("GET", url(sandbox_id, command_id, "logs"), params=query) as answer:
        async for line in answer.aiter_lines():
            if line == ": ka":
                break


async def test_pause_and_resume(api: RunningApi) -> None:
    """A pause ends who follows, and says where to go on; then the log does. Calls meanwhile are 409."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    api.node.command(SandboxId(sandbox_id), command_id).write(b"12345")
    frames = follow(api, sandbox_id, command_id)
    assert text([await anext(frames), await anext(frames)]) == "12345"
    assert (await api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")).status_code == 200
    last = [frame async for frame in frames][-1]
    assert (last["code"], last["command_id"], last["offset"]) == ("state_conflict", command_id, 5)

    for method, path in [
        ("POST", url(sandbox_id)),
        ("GET", url(sandbox_id)),
        ("GET", url(sandbox_id, command_id)),
        ("DELETE", url(sandbox_id, command_id)),
        ("GET", url(sandbox_id, command_id, "logs")),
        ("GET", url(sandbox_id, command_id, "logs?follow=true")),
    ]:
        answer = await api.client.request(method, path, json={"command": "true"} if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict"), path

    await api.client.post(f"/v1/sandboxes/{sandbox_id}/resume")
    command = api.node.command(SandboxId(sandbox_id), command_id)
    command.write(b"678")
    command.exit()
    assert text([frame async for frame in follow(api, sandbox_id, command_id, offset=5)]) == "678"


async def test_a_paused_sandbox_wakes_by_itself(api: RunningApi) -> None:
    """With `auto_resume`, by any of these calls."""
    sandbox_id = await api.create(auto_resume=True)
    command_id = await start(api, sandbox_id, "echo hi")
    for path in (url(sandbox_id), url(sandbox_id, command_id, "logs"), f"/v1/sandboxes/{sandbox_id}/env"):
        await api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")
        assert (await api.client.get(path)).status_code == 200


async def test_many_followers(api: RunningApi) -> None:
    """Fifty over HTTP have the same, by one stream of the guest; when they leave, that ends."""
    sandbox_id = await api.create()
    command_id = await start(api, sandbox_id, "sit")
    command = api.node.command(SandboxId(sandbox_id), command_id)

    async def read() -> str:
        return text([frame async for frame in follow(api, sandbox_id, command_id)])

    readers = [asyncio.create_task(read()) for _ in range(50)]
    await until(lambda: command.streams)
    for number in range(20):
        command.write(b"%06d\n" % number * 1000)
        await asyncio.sleep(0.01)
        assert command.streams == 1
    command.exit()
    assert set(await asyncio.gather(*readers)) == {command.log.decode()}
    await until(lambda: command.streams == 0)
