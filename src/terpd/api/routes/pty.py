"""Terminals."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from terpd.api.given import GivenExecId, GivenPace, GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.routes.exec import EVENTS
from terpd.api.schemas.errors import errors
from terpd.api.schemas.pty import OpenPtyBody, PtyBody, PtysBody, ResizePtyBody, TypedBody, pty_object
from terpd.api.sse import stream_exec

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/pty", tags=["terminals"])

_COMMON = (404, 409, 502, 503, 504, 507)
_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": "What the terminal shows", "content": EVENTS}}
_RAW: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "",
    operation_id="open_pty",
    summary="Open a terminal",
    status_code=201,
    response_model=PtyBody,
    responses=errors(400, 413, 422, 429, *_COMMON),
)
async def open_(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: OpenPtyBody | None = None
) -> Response:
    """It stays when nobody looks at it, and goes on over pauses, until its program ends or it is closed."""
    request = (body or OpenPtyBody.model_validate({})).to_request()
    return json_response(pty_object(await services.ptys.open(caller.tenant, sandbox_id, request)), 201)


@router.get(
    "",
    operation_id="list_ptys",
    summary="List terminals",
    response_model=PtysBody,
    responses=errors(*_COMMON),
)
async def list_all(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId) -> Response:
    found = await services.ptys.list(caller.tenant, sandbox_id)
    return json_response({"ptys": [pty_object(pty) for pty in found]})


@router.get(
    "/{command_id}",
    operation_id="get_pty",
    summary="Look a terminal up",
    response_model=PtyBody,
    responses=errors(*_COMMON),
)
async def get(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, command_id: GivenExecId) -> Response:
    return json_response(pty_object(await services.ptys.get(caller.tenant, sandbox_id, command_id)))


@router.get(
    "/{command_id}/output",
    operation_id="follow_pty",
    summary="Follow what a terminal shows",
    response_class=Response,
    responses={**_STREAM, **errors(422, *_COMMON)},
)
async def output(
    caller: Reader,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    command_id: GivenExecId,
    offset: Annotated[int, Query(ge=0, le=2**63 - 1, description="Bytes of output to leave out")] = 0,
) -> Response:
    """
    The frames of `exec`: bytes in base64 as they come, also within a character. To go on after a break give the
    `offset` of the last chunk plus the length of its data.

    The guest keeps a bounded part: where older output is gone, the first chunk has a later `offset`. Who looks and
    does not read holds the terminal's program back.
    """
    following = services.ptys.output(caller.tenant, sandbox_id, command_id, offset)
    return await stream_exec(following, pace, whole_characters=False)


@router.post(
    "/{command_id}/input",
    operation_id="type_into_pty",
    summary="Type into a terminal",
    response_model=TypedBody,
    responses=errors(413, 422, 429, *_COMMON),
    openapi_extra=_RAW,
)
async def type_(
    caller: Writer,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    command_id: GivenExecId,
    request: Request,
    offset: Annotated[
        int | None,
        Query(ge=0, le=2**63 - 1, description="Of the first byte among all typed; left out: append"),
    ] = None,
) -> Response:
    """
    The body's bytes as they are, 1 MiB at most. With `offset` a call may be repeated: what was accepted before is not
    typed again.
    """
    accepted = await services.ptys.type(caller.tenant, sandbox_id, command_id, request.stream(), offset)
    return json_response({"offset": accepted})


@router.post(
    "/{command_id}/resize",
    operation_id="resize_pty",
    summary="Change a terminal's size",
    status_code=204,
    response_class=Response,
    responses=errors(400, 413, 422, *_COMMON),
)
async def resize(
    caller: Writer,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    command_id: GivenExecId,
    body: ResizePtyBody,
) -> Response:
    await services.ptys.resize(caller.tenant, sandbox_id, command_id, body.to_size())
    return Response(status_code=204)


@router.delete(
    "/{command_id}",
    operation_id="close_pty",
    summary="Close a terminal",
    status_code=204,
    response_class=Response,
    responses=errors(*_COMMON),
)
async def close(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, command_id: GivenExecId
) -> Response:
    """SIGHUP to its program; what has not ended 2 s later gets SIGKILL. Idempotent."""
    await services.ptys.close(caller.tenant, sandbox_id, command_id)
    return Response(status_code=204)
