"""Code in persistent kernels."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic_core import to_json

from terpd.api.code_frames import CodeFrames
from terpd.api.drip import answer_or_drip
from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.code import (
    CodeBody,
    CodeExecutionBody,
    ContextBody,
    ContextsBody,
    CreateContextBody,
    context_object,
    execution_object,
    late_failure_object,
)
from terpd.api.schemas.errors import errors
from terpd.api.schemas.shape import NoBody
from terpd.api.sse import stream_events
from terpd.control.code import CodeExecution
from terpd.model.code import DEFAULT_CONTEXT, Language
from terpd.model.errors import ContextNotFound, TerpError

_MAX_ID = 64

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/code", tags=["code"])

_COMMON = (404, 409, 422, 429, 502, 503, 504, 507)
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What it came to, or with `stream` its events",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'data: {"kind":"stream","stream":"stdout","text":"hi\\n"}\n\n'
                'data: {"kind":"result","result":{"type":"text","text":"2","is_main":true}}\n\n'
                'data: {"kind":"done","error":null,"execution_count":1,"context_id":"default","duration_ms":9,…}\n\n',
            }
        },
    }
}


@router.post(
    "",
    operation_id="run_code",
    summary="Run code in a kernel",
    response_model=CodeExecutionBody,
    responses={**_EVENTS, **errors(400, 413, *_COMMON)},
)
async def run(
    caller: Writer, services: GivenServices, pace: GivenPace, sandbox_id: GivenSandboxId, body: CodeBody
) -> Response:
    """
    Variables, imports and functions last from call to call, over pauses too. Runs of one context wait for each other,
    those of different ones do not. An exception is a result. At its timeout the kernel is interrupted and keeps what it
    holds; one that does not yield is killed, and another stands in its place.

    With `stream`: frames `stream`, `result`, `error` (the code raised, and the stream goes on) and a last one, `done`,
    or an `error` with `error_code`. A client that leaves interrupts the code.

    409 `interpreter_unavailable`: the template has no kernels; create the sandbox from `code-interpreter`.
    """
    request = body.to_request()
    if body.stream:
        return await stream_events(services.code.start(caller.tenant, sandbox_id, request), CodeFrames(), pace)
    context_id = request.context_id or DEFAULT_CONTEXT

    async def late(outcome: CodeExecution | TerpError) -> bytes:
        if isinstance(outcome, TerpError):
            return to_json(late_failure_object(outcome, context_id))
        return to_json(execution_object(outcome))

    return await answer_or_drip(
        services.code.run(caller.tenant, sandbox_id, request),
        pace=pace,
        answer=lambda execution: json_response(execution_object(execution)),
        late=late,
    )


@router.post(
    "/contexts",
    operation_id="create_code_context",
    summary="Make a kernel with a namespace of its own",
    status_code=201,
    response_model=ContextBody,
    responses=errors(400, *_COMMON),
)
async def create(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: CreateContextBody
) -> Response:
    """A sandbox has 16 at most, each with a process in its memory."""
    context = await services.code.create(caller.tenant, sandbox_id, Language(body.language), body.cwd)
    return json_response(context_object(context), 201)


@router.get(
    "/contexts",
    operation_id="list_code_contexts",
    summary="List kernels",
    response_model=ContextsBody,
    responses=errors(*_COMMON),
)
async def list_all(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId) -> Response:
    found = await services.code.list(caller.tenant, sandbox_id)
    return json_response({"contexts": [context_object(context) for context in found]})


@router.post(
    "/contexts/{context_id}/restart",
    operation_id="restart_code_context",
    summary="Start a kernel anew",
    response_model=ContextBody,
    responses=errors(400, *_COMMON),
)
async def restart(
    caller: Writer,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    context_id: Annotated[str, Path(description="`default`, or `ctx_…`")],
    _: NoBody | None = None,
) -> Response:
    """It keeps its id and loses its namespace. What runs in it ends."""
    context = await services.code.restart(caller.tenant, sandbox_id, _known(context_id))
    return json_response(context_object(context))


@router.delete(
    "/contexts/{context_id}",
    operation_id="remove_code_context",
    summary="End a kernel",
    status_code=204,
    response_class=Response,
    responses=errors(*_COMMON),
)
async def remove(
    caller: Writer,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    context_id: Annotated[str, Path(description="`default`, or `ctx_…`")],
) -> Response:
    """What runs in it ends. A default context that is removed is made again when it is used."""
    await services.code.remove(caller.tenant, sandbox_id, _known(context_id))
    return Response(status_code=204)


def _known(context_id: str) -> str:
    """Raises ContextNotFound for what no context is called, without asking the guest."""
    if len(context_id) > _MAX_ID or not context_id.isprintable():
        raise ContextNotFound(f"There is no such context: {context_id[:_MAX_ID]!r}")
    return context_id
