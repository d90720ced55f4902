"""Terminals over HTTP."""

from __future__ import annotations

import base64
import json

import pytest
from support.api import RunningApi

from terpd.model.guest import PtySize
from terpd.model.ids import SandboxId

CMD = "cmd_01JG0000000000000000000000"


def url(sandbox_id: str, *more: str) -> str:
    return "/".join([f"/v1/sandboxes/{sandbox_id}/pty", *more])


async def open_pty(api: RunningApi, sandbox_id: str, **body: object) -> str:
    answer = await api.client.post(url(sandbox_id), json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_a_login_shell_by_default(api: RunningApi) -> None:
    """Of the usual size, with a TERM that `env` may change."""
    sandbox_id = await api.create()
    answer = await api.client.post(url(sandbox_id))
    pty = answer.json()
    assert answer.status_code == 201
    assert (pty["pid"], pty["status"], pty["exit_code"]) == (17, "running", None)
    request = api.node.command(SandboxId(sandbox_id), pty["id"]).request
    assert (request.command, request.pty, request.cwd) == (
        'exec "${SHELL:-/bin/bash}" -l',
        PtySize(80, 24),
        "/workspace",
    )
    assert request.env == {"TERM": "xterm-256color"}
    assert request.timeout_s is None
    other = await open_pty(api, sandbox_id, command="vi", cols=100, rows=30, cwd="/tmp", env={"TERM": "vt100"})
    request = api.node.command(SandboxId(sandbox_id), other).request
    assert (request.command, request.pty, request.cwd, request.env) == (
        "vi",
        PtySize(100, 30),
        "/tmp",
        {"TERM": "vt100"},
    )
    assert [each["id"] for each in (await api.client.get(url(sandbox_id))).json()["ptys"]] == [pty["id"], other]
    assert (await api.client.get(url(sandbox_id, pty["id"]))).json() == pty


async def test_typing_counts_bytes(api: RunningApi) -> None:
    """A repeated call types nothing twice; without an offset it is appended; beyond what was accepted is an error."""
    sandbox_id = await api.create()
    pty = await open_pty(api, sandbox_id)
    keys = url(sandbox_id, pty, "input")
    first = b"\x1b[A\xff\x00" * 10
    assert (await api.client.post(keys, params={"offset": 0}, content=first)).json() == {"offset": 50}
    assert (await api.client.post(keys, params={"offset": 0}, content=first + b"!")).json() == {"offset": 51}
    assert (await api.client.post(keys, content=b"?")).json() == {"offset": 52}
    assert (await api.client.post(keys, params={"offset": 60}, content=b"x")).status_code == 422
    assert bytes(api.node.command(SandboxId(sandbox_id), pty).typed) == first + b"!?"


async def test_much_is_typed_in_pieces(api: RunningApi) -> None:
    """1 MiB at most; where the program stops reading, the answer says how far it got."""
    sandbox_id = await api.create()
    pty = await open_pty(api, sandbox_id)
    command = api.node.command(SandboxId(sandbox_id), pty)
    keys = url(sandbox_id, pty, "input")
    text = bytes(range(256)) * 4096
    assert (await api.client.post(keys, content=text + b"!")).status_code == 413
    assert (await api.client.post(keys, content=text)).json() == {"offset": len(text)}
    assert bytes(command.typed) == text
    command.room = len(text) + 40_000
    answer = await api.client.post(keys, params={"offset": len(text)}, content=bytes(100_000))
    assert (answer.status_code, answer.json()["offset"]) == (429, len(text) + 32_768)


async def test_output_is_bytes(api: RunningApi) -> None:
    """As they come, also half a character; attached to again by offset; the end is the program's."""
    sandbox_id = await api.create()
    pty = await open_pty(api, sandbox_id)
    command = api.node.command(SandboxId(sandbox_id), pty)
    command.write(b"$ \xe2")
    async with api.client.stream("GET", url(sandbox_id, pty, "output"), params={"offset": 1}) as answer:
        lines = answer.aiter_lines()
        frames = (json.loads(line[5:]) async for line in lines if line.startswith("data:"))
        assert (await anext(frames))["kind"] == "exec_started"
        chunk = await anext(frames)
        assert (chunk["offset"], base64.b64decode(chunk["data"])) == (1, b" \xe2")
        command.write(b"\x82\xac")
        chunk = await anext(frames)
        assert (chunk["offset"], base64.b64decode(chunk["data"])) == (3, b"\x82\xac")
        command.exit(0)
        assert (await anext(frames))["kind"] == "exec_exited"


async def test_resize_and_close(api: RunningApi) -> None:
    """Closing hangs up; both know their bounds."""
    sandbox_id = await api.create()
    pty = await open_pty(api, sandbox_id)
    command = api.node.command(SandboxId(sandbox_id), pty)
    resize = url(sandbox_id, pty, "resize")
    assert (await api.client.post(resize, json={"cols": 132, "rows": 50})).status_code == 204
    assert command.size == PtySize(132, 50)
    for body in ({"cols": 0, "rows": 1}, {"cols": 1, "rows": 1001}, {"cols": 1}):
        assert (await api.client.post(resize, json=body)).status_code == 422
    for _ in range(2):
        assert (await api.client.delete(url(sandbox_id, pty))).status_code == 204
    assert command.signals[0] == 1
    assert (await api.client.get(url(sandbox_id, pty))).json()["status"] == "killed"


@pytest.mark.parametrize(
    ("method", "more"),
    [("GET", ()), ("DELETE", ()), ("GET", ("output",)), ("POST", ("input",)), ("POST", ("resize",))],
)
async def test_what_is_no_terminal(api: RunningApi, method: str, more: tuple[str, ...]) -> None:
    """A background command is not found here either."""
    sandbox_id = await api.create()
    command = (await api.client.post(f"/v1/sandboxes/{sandbox_id}/commands", json={"command": "hang"})).json()["id"]
    for pty in (CMD, command):
        body = {"cols": 1, "rows": 1} if more == ("resize",) else None
        answer = await api.client.request(method, url(sandbox_id, pty, *more), json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "command_not_found")
