"""Code in kernels: events, results, contexts."""

from __future__ import annotations

import base64

import httpx
import pytest

from terp import (
    AsyncSandbox,
    AsyncTerp,
    BadReply,
    CodeDone,
    CodeError,
    CodeFailed,
    CodeText,
    ConnectionFailed,
    ContextNotFound,
    InterpreterUnavailable,
    Result,
)

PNG = b"\x89PNG\r\n"
DONE = {
    "kind": "done",
    "error": None,
    "execution_count": 2,
    "context_id": "default",
    "duration_ms": 12,
    "interrupted": False,
    "restarted": False,
    "truncated": [],
}
ERROR = {"name": "ZeroDivisionError", "value": "division by zero", "traceback": ["line 1", "line 2"]}
CONTEXT = {
    "context_id": "ctx_1",
    "language": "bash",
    "cwd": "/tmp",
    "created_at": "2026-01-01T00:00:00Z",
    "last_used_at": None,
    "executions": 4,
    "alive": True,
}


def text(stream, content):
    return {"kind": "stream", "stream": stream, "text": content}


def result(**forms):
    return {"kind": "result", "result": {"type": "text", **forms}}


@pytest.fixture
async def sandbox(server):
    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield await AsyncSandbox.create(client=client)


async def test_run_code_collects_all(server, sandbox):
    """Results in all their forms, output, how it went; callbacks as it comes."""
    image = result(type="image_png", png=base64.encodebytes(PNG).decode(), text="<Figure>")
    main = result(text="3", html="<b>3</b>", json={"a": 1}, chart={"type": "line"}, is_main=True, newer="ignored")
    server.exec(text("stdout", "a"), image, text("stderr", "b"), {"kind": "newer"}, text("stdout", "c"), main, DONE)
    seen = []

    execution = await sandbox.run_code(
        "x", timeout=9, on_stdout=seen.append, on_stderr=seen.append, on_result=lambda each: seen.append(each.text)
    )

    assert server.calls[-1] == f"POST /v1/sandboxes/{sandbox.id}/code"
    assert server.sent() == {
        "code": "x",
        "language": "python",
        "context_id": None,
        "timeout_seconds": 9,
        "stream": True,
    }
    assert (execution.text, execution.stdout, execution.stderr) == ("3", "ac", "b")
    assert (execution.execution_count, execution.context_id, execution.duration_ms) == (2, "default", 12)
    assert seen == ["a", "<Figure>", "b", "c", "3"]
    assert execution.check() is execution
    first, second = execution.results
    assert (first.png, first._repr_png_(), first._repr_html_()) == (PNG, PNG, None)
    assert first.png_base64 == base64.b64encode(PNG).decode()
    assert (second.html, second.json, second.chart, second.is_main) == ("<b>3</b>", {"a": 1}, {"type": "line"}, True)


async def test_what_code_raises_is_a_value(server, sandbox):
    """Until `check` is called."""
    server.exec({"kind": "error", "error": ERROR}, {**DONE, "error": ERROR})

    execution = await sandbox.run_code("1/0")

    assert execution.error == CodeError("ZeroDivisionError", "division by zero", ("line 1", "line 2"))
    assert execution.text is None
    with pytest.raises(CodeFailed, match="division by zero") as caught:
        execution.check()
    assert caught.value.execution is execution


async def test_interrupted_code_fails_a_check(server, sandbox):
    """Its variables stay, its end is none."""
    server.exec({**DONE, "interrupted": True, "restarted": True, "truncated": ["stdout"]})

    execution = await sandbox.run_code("while True: pass")

    assert (execution.interrupted, execution.restarted, execution.truncated) == (True, True, ("stdout",))
    with pytest.raises(CodeFailed, match="timeout"):
        execution.check()


async def test_stream_yields_what_happens(server, sandbox):
    """In its order."""
    server.exec(text("stdout", "a"), result(text="1", is_main=True), {"kind": "error", "error": ERROR}, DONE)

    events = [event async for event in sandbox.run_code_stream("x", language="bash")]

    assert [type(event) for event in events] == [CodeText, Result, CodeError, CodeDone]
    assert server.sent()["language"] == "bash"


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ({"kind": "error", "error_code": "interpreter_unavailable", "error": ERROR}, InterpreterUnavailable),
        ({"kind": "error", "code": "context_not_found", "message": "no such"}, ContextNotFound),
    ],
)
async def test_failures_within_the_stream(server, sandbox, frame, kind):
    """They are raised like those before it."""
    server.exec(text("stdout", "a"), frame)

    with pytest.raises(kind):
        await sandbox.run_code("x")


async def test_template_without_kernels(server, sandbox):
    """Says so before anything runs."""
    server.reply(409, {"detail": "no kernels", "code": "interpreter_unavailable"})

    with pytest.raises(InterpreterUnavailable):
        await sandbox.run_code("x")


async def test_code_is_never_sent_twice(server, sandbox):
    """A lost connection leaves open whether it ran."""
    server.fail(httpx.ReadError("reset"))
    server.exec(text("stdout", "half"))

    for _ in range(2):
        with pytest.raises(ConnectionFailed):
            await sandbox.run_code("x")


@pytest.mark.parametrize(
    "content",
    [
        b"data: []\n\n",
        b'data: {"kind":"stream"}\n\n',
        b'data: {"kind":"result","result":{"type":"text","png":5}}\n\n',
        b'data: {"kind":"error"}\n\n',
        b'data: {"kind":"done"}\n\n',
    ],
)
async def test_nonsense_in_the_stream_is_a_bad_reply(server, sandbox, content):
    """Whatever comes, what comes out is ours."""
    server.reply(content=content)

    with pytest.raises(BadReply):
        await sandbox.run_code("x")


async def test_contexts(server, sandbox):
    """Each with its language; restarted, listed, removed."""
    server.reply(201, CONTEXT)
    server.exec(result(text="1", is_main=True), {**DONE, "context_id": "ctx_1"})
    server.exec({**DONE, "context_id": "ctx_1"})
    server.reply(200, {})
    server.reply(200, {"contexts": [CONTEXT]})
    server.reply(204)

    context = await sandbox.create_code_context("bash", cwd="/tmp")
    assert server.sent() == {"language": "bash", "cwd": "/tmp"}
    assert (await context.run_code("echo")).text == "1"
    assert (server.sent()["context_id"], server.sent()["language"]) == ("ctx_1", "bash")
    await sandbox.run_code("echo", context=context)
    assert (server.sent()["context_id"], server.sent()["language"]) == ("ctx_1", "bash")
    await context.restart()
    (found,) = await sandbox.code_contexts()
    await found.remove()

    assert (found.id, found.language, found.cwd, found.alive, found.info.executions) == (
        "ctx_1",
        "bash",
        "/tmp",
        True,
        4,
    )
    assert [call.rpartition("/code/")[2] for call in server.calls[4:]] == [
        "contexts/ctx_1/restart",
        "contexts",
        "contexts/ctx_1",
    ]


async def test_output_is_collected_to_a_limit(server, sandbox):
    """Code that writes without end does not fill the caller's memory; callbacks still see all of it."""
    piece = "x" * (1 << 20)
    server.exec(*[text("stdout", piece)] * 17, *[result(text="r")] * 65, DONE)
    sizes = []

    execution = await sandbox.run_code("x", on_stdout=lambda content: sizes.append(len(content)))

    assert len(execution.stdout) == 16 << 20
    assert (len(execution.results), execution.truncated) == (64, ("results", "stdout"))
    assert sum(sizes) == 17 << 20
