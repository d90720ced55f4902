"""Run commands."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.given import GivenExecId, GivenPace, GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.exec import ExecBody, ExecResultBody, late_failure_object, result_object
from terpd.api.sse import stream_exec
from terpd.control.exec import ExecResult
from terpd.control.outcome import failure_of
from terpd.model.errors import TerpError

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}", tags=["exec"])

EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'data: {"kind":"exec_started","pid":17,"command_id":"cmd_…"}\n\n'
        'data: {"kind":"exec_chunk","stream":"stdout","offset":0,"data":"aGkK"}\n\n'
        'data: {"kind":"exec_exited","code":0,"duration_ms":18}\n\n',
    }
}
_RESULT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The result, or with `stream` its events", "content": EVENTS}
}
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": "The command's events", "content": EVENTS}}


@router.post(
    "/exec",
    operation_id="exec",
    summary="Run a command",
    response_model=ExecResultBody,
    responses={**_RESULT, **errors(400, 404, 409, 413, 422, 429, 502, 503, 504, 507)},
)
async def exec_(
    caller: Writer, services: GivenServices, pace: GivenPace, sandbox_id: GivenSandboxId, body: ExecBody
) -> Response:
    """
    A non-zero exit code is a result. A timeout is 504 `exec_timeout`, death by a signal 422 `exec_killed`, both with
    the output so far.

    With `stream`: frames `exec_started`, `exec_chunk` (base64, never cut within a character of UTF-8) and a last
    one, `exec_exited` or `error`. A client that leaves does not stop the command; its timeout does. It can be attached
    to under its `command_id`.

    In a paused sandbox with `auto_resume` the command starts when that runs again. When the sandbox is paused while
    the command runs, this call ends with `state_conflict` and the command goes on after the resume.
    """
    if body.stream:
        return await stream_exec(services.exec.start(caller.tenant, sandbox_id, body.to_command()), pace)
    return await answer_or_drip(
        services.exec.run(caller.tenant, sandbox_id, body.to_command()), pace=pace, answer=_answer, late=_late
    )


@router.get(
    "/exec/{command_id}",
    operation_id="attach_exec",
    summary="Follow a command that was started before",
    response_class=Response,
    responses={**_STREAM, **errors(404, 409, 422, 502, 503, 504, 507)},
)
async def attach(
    caller: Reader,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    command_id: GivenExecId,
    offset: Annotated[
        int, Query(ge=0, le=2**63 - 1, description="Bytes of output, of both streams together, to leave out")
    ] = 0,
) -> Response:
    """
    The frames of `exec` with `stream`, from `offset` on, whether the command runs still or has ended. To go on after a
    break give the `offset` of the last `exec_chunk` plus the length of its data.

    The guest keeps a bounded part of the output only: where older output is gone, the first chunk has a later
    `offset`.
    """
    return await stream_exec(services.exec.attach(caller.tenant, sandbox_id, command_id, offset), pace)


def _answer(result: ExecResult) -> Response:
    failure = _failure(result)
    if failure is not None:
        raise failure
    return json_response(result_object(result))


async def _late(outcome: ExecResult | TerpError) -> bytes:
    if isinstance(outcome, TerpError):
        return to_json(late_failure_object(outcome))
    failure = _failure(outcome)
    return to_json(result_object(outcome) if failure is None else late_failure_object(failure))


def _failure(result: ExecResult) -> TerpError | None:
    failure = failure_of(result.exited)
    if failure is not None:
        failure.fields = {**result_object(result), **failure.fields}
    return failure
