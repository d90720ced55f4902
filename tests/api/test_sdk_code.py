"""Our client against our server: what the one reads of code and its kernels is what the other sends."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest
from support.api import RunningApi
from terp import (
    AsyncSandbox,
    AsyncTerp,
    CodeError,
    CodeFailed,
    ContextNotFound,
    GuestFault,
    InterpreterUnavailable,
)

from terpd.model import errors
from terpd.model.code import CodeDone, CodeResult, CodeText, Language, ResultType
from terpd.model.code import CodeError as Raised
from terpd.model.guest import OutputStream


@pytest.fixture
async def sandbox(api: RunningApi) -> AsyncIterator[AsyncSandbox]:
    async with AsyncTerp(api_key=await api.key(), base_url=api.url) as client:
        yield await AsyncSandbox.create(client=client)


async def test_all_that_a_run_shows(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """Every form of a result, both streams, what was raised, and how it went."""
    forms = {"html": "<b>", "markdown": "*", "latex": "$", "svg": "<svg/>", "json": [1], "chart": {"type": "line"}}
    raised = Raised("ValueError", "no\u2028", ("one", "two"))
    api.node.code.tells = [
        CodeText(OutputStream.STDOUT, "out\u2028"),
        CodeText(OutputStream.STDERR, "err"),
        CodeResult(ResultType.CHART, text="€", png=base64.b64encode(b"PNG").decode(), is_main=True, **forms),
        raised,
        CodeDone("default", 7, 12, raised, interrupted=True, restarted=True, truncated=("stdout",)),
    ]

    execution = await sandbox.run_code("x", timeout=9)

    (result,) = execution.results
    assert {name: getattr(result, name) for name in forms} == forms
    assert (result.type, execution.text, result.png, result.is_main) == ("chart", "€", b"PNG", True)
    assert (execution.stdout, execution.stderr) == ("out\u2028", "err")
    assert execution.error == CodeError("ValueError", "no\u2028", ("one", "two"))
    assert (execution.execution_count, execution.context_id, execution.duration_ms) == (7, "default", 12)
    assert (execution.interrupted, execution.restarted, execution.truncated) == (True, True, ("stdout",))
    with pytest.raises(CodeFailed):
        execution.check()
    assert api.node.code.requests[-1].timeout_s == 9


async def test_contexts(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """Made, run in, listed, restarted, removed; then they are gone."""
    context = await sandbox.create_code_context("bash", "/tmp")
    execution = await context.run_code("echo")
    request = api.node.code.requests[-1]
    (found,) = await sandbox.code_contexts()
    await found.restart()
    await found.remove()

    assert (execution.text, execution.context_id) == ("echo", context.id)
    assert (request.context_id, request.language) == (context.id, Language.BASH)
    assert (found.id, found.language, found.cwd, found.alive) == (context.id, "bash", "/tmp", True)
    assert await sandbox.code_contexts() == ()
    with pytest.raises(ContextNotFound):
        await context.run_code("x")


async def test_failures(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """Before the stream, and within it."""
    api.node.code.tells = [CodeText(OutputStream.STDOUT, "out"), errors.GuestFault("The guest is lost")]
    with pytest.raises(GuestFault, match="is lost"):
        await sandbox.run_code("x")

    api.node.code.absent = True
    with pytest.raises(InterpreterUnavailable):
        await sandbox.run_code("x")
    with pytest.raises(InterpreterUnavailable):
        await sandbox.create_code_context()
