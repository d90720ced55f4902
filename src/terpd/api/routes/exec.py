"""Run commands."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, Writer
from terpd.api.pace import Pace
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.exec import ExecBody, ExecResultBody, late_failure_object, result_object
from terpd.api.sse import ExecStream
from terpd.control.exec import ExecResult
from terpd.control.keys import Caller
from terpd.control.outcome import failure_of
from terpd.control.services import Services
from terpd.model.errors import TerpError
from terpd.model.ids import SandboxId

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}", tags=["exec"])

_OK: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The result, or with `stream` its events",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'data: {"kind":"exec_started","pid":17,"command_id":"cmd_…"}\n\n'
                'data: {"kind":"exec_chunk","stream":"stdout","data":"aGkK"}\n\n'
                'data: {"kind":"exec_exited","code":0,"duration_ms":18}\n\n',
            }
        },
    }
}


@router.post(
    "/exec",
    operation_id="exec",
    summary="Run a command",
    response_model=ExecResultBody,
    responses={**_OK, **errors(400, 404, 409, 413, 422, 429, 502, 503, 504)},
)
async def exec_(
    caller: Writer, services: GivenServices, pace: GivenPace, sandbox_id: GivenSandboxId, body: ExecBody
) -> Response:
    """
    A non-zero exit code is a result. A timeout is 504 `exec_timeout`, death by a signal 422 `exec_killed`, both with
    the output so far.

    With `stream`: frames `exec_started`, `exec_chunk` (base64, never cut within a character of UTF-8) and a last
    one, `exec_exited` or `error`. A client that leaves does not stop the command; its timeout does.
    """
    if body.stream:
        return await _stream(caller, services, pace, sandbox_id, body)
    return await answer_or_drip(
        services.exec.run(caller.tenant, sandbox_id, body.to_command()), pace=pace, answer=_answer, late=_late
    )


async def _stream(caller: Caller, services: Services, pace: Pace, sandbox_id: SandboxId, body: ExecBody) -> Response:
    running = await services.exec.start(caller.tenant, sandbox_id, body.to_command())
    # What keeps the command from starting still has a status of its own.
    first = await anext(running.events)
    return ExecStream(running.id, first, running.events, pace.keepalive_s)


def _answer(result: ExecResult) -> Response:
    failure = _failure(result)
    if failure is not None:
        raise failure
    return json_response(result_object(result))


def _late(outcome: ExecResult | TerpError) -> bytes:
    if isinstance(outcome, TerpError):
        return to_json(late_failure_object(outcome))
    failure = _failure(outcome)
    return to_json(result_object(outcome) if failure is None else late_failure_object(failure))


def _failure(result: ExecResult) -> TerpError | None:
    failure = failure_of(result.exited)
    if failure is not None:
        failure.fields = {**result_object(result), **failure.fields}
    return failure
