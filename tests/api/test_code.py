"""Code in kernels over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.api import RunningApi
from support.simulated_code import HANG

from terpd.model.code import CodeDone, CodeError, CodeRequest, CodeResult, CodeText, Language, ResultType
from terpd.model.errors import GuestFault, LimitExceeded
from terpd.model.guest import OutputStream

ERROR = CodeError("ValueError", "no", ("line 1", "line 2"))
RESULT = CodeResult(ResultType.IMAGE_PNG, text="<Figure>", png="aGk=", chart={"type": "line"})
DONE = CodeDone("default", 3, 12, ERROR, interrupted=True, restarted=True, truncated=("stdout", "png"))
TELLS = [CodeText(OutputStream.STDOUT, "a"), CodeText(OutputStream.STDERR, "e\u2028"), RESULT, ERROR, DONE]
SHOWN = {
    "error": {"name": "ValueError", "value": "no", "traceback": ["line 1", "line 2"]},
    "execution_count": 3,
    "context_id": "default",
    "duration_ms": 12,
    "interrupted": True,
    "restarted": True,
    "truncated": ["stdout", "png"],
}
PICTURE = {"type": "image_png", "text": "<Figure>", "png": "aGk=", "chart": {"type": "line"}, "is_main": False}


def url(sandbox_id: str, *more: str) -> str:
    return "/".join([f"/v1/sandboxes/{sandbox_id}/code", *more])


def frames(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]


async def test_a_run_is_answered_with_all_it_showed(api: RunningApi) -> None:
    """An exception is data in a 200; forms that a result has not are left out."""
    sandbox_id = await api.create()
    api.node.code.tells = list(TELLS)

    answer = await api.client.post(url(sandbox_id), json={"code": "1/0", "context_id": None})

    assert answer.status_code == 200
    assert answer.json() == {"results": [PICTURE], "stdout": "a", "stderr": "e\u2028", **SHOWN}
    assert api.node.code.requests == [CodeRequest("1/0", Language.PYTHON, None, 60.0)]


async def test_a_run_is_streamed(api: RunningApi) -> None:
    """Frame by frame; an error of the code does not end the stream, and `done` says it again."""
    sandbox_id = await api.create()
    api.node.code.tells = list(TELLS)

    answer = await api.client.post(url(sandbox_id), json={"code": "x", "language": "bash", "stream": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert frames(answer.text) == [
        {"kind": "stream", "stream": "stdout", "text": "a"},
        {"kind": "stream", "stream": "stderr", "text": "e\u2028"},
        {"kind": "result", "result": PICTURE},
        {"kind": "error", "error": SHOWN["error"]},
        {"kind": "done", **SHOWN},
    ]
    assert api.node.code.requests[0].language is Language.BASH


async def test_what_breaks_a_stream_is_its_last_frame(api: RunningApi) -> None:
    """With `error_code`, by which clients tell it from what the code raised. Before the first event it is a status."""
    sandbox_id = await api.create()
    api.node.code.tells = [CodeText(OutputStream.STDOUT, "a"), GuestFault("gone")]
    answer = await api.client.post(url(sandbox_id), json={"code": "x", "stream": True})
    assert frames(answer.text)[-1] == {
        "kind": "error",
        "error_code": "guest_fault",
        "message": "gone",
        "error": {"name": "guest_fault", "value": "gone", "traceback": []},
    }

    api.node.code.tells = [LimitExceeded("too many wait")]
    answer = await api.client.post(url(sandbox_id), json={"code": "x", "stream": True})
    assert (answer.status_code, answer.json()["code"]) == (429, "limit_exceeded")


async def test_a_template_without_kernels(api: RunningApi) -> None:
    """Each call says so, with a code that clients know."""
    sandbox_id = await api.create()
    api.node.code.absent = True
    for method, path, body in (
        ("POST", url(sandbox_id), {"code": "1"}),
        ("POST", url(sandbox_id), {"code": "1", "stream": True}),
        ("POST", url(sandbox_id, "contexts"), {}),
        ("GET", url(sandbox_id, "contexts"), None),
        ("POST", url(sandbox_id, "contexts", "default", "restart"), {}),
        ("DELETE", url(sandbox_id, "contexts", "default"), None),
    ):
        answer = await api.client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "interpreter_unavailable"), (method, path)


async def test_leaving_interrupts(hasty_api: RunningApi) -> None:
    """A client that goes away while the code runs ends it."""
    api = hasty_api
    sandbox_id = await api.create()

    async with api.client.stream("POST", url(sandbox_id), json={"code": HANG, "stream": True}) as answer:
        assert answer.status_code == 200

    await asyncio.wait_for(api.node.code.interrupted.wait(), 10)


async def test_a_slow_run_drips(hasty_api: RunningApi) -> None:
    """200 and spaces while it runs, then what it came to; what then goes wrong is told in the body."""
    api = hasty_api
    sandbox_id = await api.create()
    for tells, code in (([DONE], None), ([GuestFault("gone")], "guest_fault")):
        api.node.code.tells = list(tells)
        api.node.code.released.clear()
        asyncio.get_running_loop().call_later(0.5, api.node.code.released.set)
        answer = await api.client.post(url(sandbox_id), json={"code": HANG})
        assert answer.status_code == 200
        assert answer.text.startswith(" ")
        assert answer.json().get("code") == code
    assert answer.json()["error"] == {"name": "guest_fault", "value": "gone", "traceback": []}


async def test_contexts(api: RunningApi) -> None:
    """Made with a language and a directory, listed, restarted, removed; then they are not found."""
    sandbox_id = await api.create()
    made = await api.client.post(url(sandbox_id, "contexts"), json={"language": "javascript", "cwd": "/tmp"})
    plain = await api.client.post(url(sandbox_id, "contexts"), json={})
    context = made.json()

    assert (made.status_code, plain.status_code) == (201, 201)
    assert (context["language"], context["cwd"], context["alive"]) == ("javascript", "/tmp", True)
    assert context["created_at"].endswith("Z")
    assert (plain.json()["language"], plain.json()["cwd"]) == ("python", "/workspace")
    listed = (await api.client.get(url(sandbox_id, "contexts"))).json()
    assert listed == {"contexts": [context, plain.json()]}

    here = url(sandbox_id, "contexts", context["context_id"])
    assert (await api.client.post(f"{here}/restart", json={})).json() == context
    run = await api.client.post(url(sandbox_id), json={"code": "1", "context_id": context["context_id"]})
    assert run.json()["context_id"] == context["context_id"]
    assert (await api.client.delete(here)).status_code == 204
    for answer in (await api.client.delete(here), await api.client.post(f"{here}/restart", json={})):
        assert (answer.status_code, answer.json()["code"]) == (404, "context_not_found")


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "code"),
        ({"code": 5}, 422, "code"),
        ({"code": "1", "language": "perl"}, 422, "language"),
        ({"code": "1", "timeout_seconds": 0}, 422, "timeout_seconds"),
        ({"code": "1", "timeout_seconds": 86401}, 422, "timeout_seconds"),
        ({"code": "1", "context_id": ""}, 422, "context_id"),
        ({"code": "1", "context_id": "x" * 65}, 422, "context_id"),
        ({"code": "1", "other": 1}, 422, "other"),
        ({"code": "x" * (1024 * 1024 + 1)}, 413, "code"),
    ],
)
async def test_bounds(api: RunningApi, body: dict[str, object], status: int, word: str) -> None:
    sandbox_id = await api.create()

    answer = await api.client.post(url(sandbox_id), json=body)

    assert answer.status_code == status
    assert word in answer.json()["detail"]
    assert not api.node.code.requests


async def test_a_directory_must_be_absolute(api: RunningApi) -> None:
    sandbox_id = await api.create()
    answer = await api.client.post(url(sandbox_id, "contexts"), json={"cwd": "tmp"})
    assert answer.status_code == 422
    assert "cwd" in answer.json()["detail"]
