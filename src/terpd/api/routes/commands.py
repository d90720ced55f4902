"""Commands in the background."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from terpd.api.given import GivenExecId, GivenPace, GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.routes.exec import EVENTS
from terpd.api.schemas.commands import (
    CommandBody,
    CommandsBody,
    LogsBody,
    StartCommandBody,
    command_object,
    logs_object,
)
from terpd.api.schemas.errors import errors
from terpd.api.sse import stream_exec

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/commands", tags=["commands"])

_COMMON = (404, 409, 502, 503, 504, 507)
_LOGS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A part of the log, or with `follow` its events", "content": EVENTS}
}


@router.post(
    "",
    operation_id="start_command",
    summary="Start a command in the background",
    status_code=201,
    response_model=CommandBody,
    responses=errors(400, 413, 422, 429, *_COMMON),
)
async def start(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: StartCommandBody
) -> Response:
    """
    It has no timeout: it runs until it ends, is killed, or its sandbox ends, and goes on over pauses.

    A sandbox remembers 256 commands, terminals included; the one that ended first is forgotten first.
    """
    return json_response(
        command_object(await services.commands.start(caller.tenant, sandbox_id, body.to_command())), 201
    )


@router.get(
    "",
    operation_id="list_commands",
    summary="List background commands",
    response_model=CommandsBody,
    responses=errors(*_COMMON),
)
async def list_all(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId) -> Response:
    found = await services.commands.list(caller.tenant, sandbox_id)
    return json_response({"commands": [command_object(command) for command in found]})


@router.get(
    "/{command_id}",
    operation_id="get_command",
    summary="Look a background command up",
    response_model=CommandBody,
    responses=errors(*_COMMON),
)
async def get(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, command_id: GivenExecId) -> Response:
    return json_response(command_object(await services.commands.get(caller.tenant, sandbox_id, command_id)))


@router.delete(
    "/{command_id}",
    operation_id="kill_command",
    summary="Kill a background command",
    status_code=204,
    response_class=Response,
    responses=errors(*_COMMON),
)
async def kill(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, command_id: GivenExecId
) -> Response:
    """
    SIGTERM to its process group; what has not ended 2 s later gets SIGKILL. Answered when the command has ended.
    Idempotent; the command and its log stay readable.
    """
    await services.commands.kill(caller.tenant, sandbox_id, command_id)
    return Response(status_code=204)


@router.get(
    "/{command_id}/logs",
    operation_id="read_command_logs",
    summary="Read or follow a background command's output",
    response_model=LogsBody,
    responses={**_LOGS, **errors(410, 422, *_COMMON)},
)
async def logs(
    caller: Reader,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    command_id: GivenExecId,
    offset: Annotated[int, Query(ge=0, le=2**63 - 1, description="Bytes to leave out")] = 0,
    follow: Annotated[bool, Query(description="Answer with server-sent events")] = False,  # noqa: FBT002
    timeout_seconds: Annotated[int, Query(description="How long to follow; the command is not stopped then")] = 300,
) -> Response:
    """
    Stdout and stderr in the order they were written, 1 MiB at most at once. The last 64 MiB are kept: what is older
    is 410 `log_dropped`, and `first_offset` says from where there is more.

    With `follow`: the frames of `exec`, all output as `stdout`, with the `offset` of each chunk, until the command has
    ended. At `timeout_seconds` the last frame is an `error` with `timed_out`; `offset` says where to go on, as it
    does when the sandbox is paused meanwhile (`state_conflict`). Any number may follow one command at the same time.
    """
    if follow:
        following = services.commands.follow(caller.tenant, sandbox_id, command_id, offset, timeout_seconds)
        return await stream_exec(following, pace)
    return json_response(logs_object(await services.commands.read_log(caller.tenant, sandbox_id, command_id, offset)))
