"""Pause and resume sandboxes."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.errors import error_body
from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.pause import PausedBody, paused_object
from terpd.api.schemas.sandboxes import SandboxBody, sandbox_object
from terpd.api.schemas.shape import NoBody
from terpd.model.errors import TerpError
from terpd.model.sandbox import Sandbox
from terpd.model.snapshot import SavedState

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}", tags=["pause"])


@router.post(
    "/pause",
    operation_id="pause_sandbox",
    summary="Save a sandbox and free what it uses",
    response_model=PausedBody,
    responses=errors(400, 404, 409, 422, 502, 503, 504, 507),
)
async def pause(
    caller: Writer,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    _body: NoBody | None = None,
) -> Response:
    """
    Memory, processes and files are kept, encrypted. Commands that run end with `state_conflict` here and go on after
    the resume. A pause that fails has changed nothing: the sandbox runs on.

    A pause that takes longer than 20 s is answered with 200 before its end is known; if it then fails, the body has
    the error's `code` and `detail`, and no `sandbox_id`.
    """

    async def late(outcome: SavedState | TerpError) -> bytes:
        return to_json(error_body(outcome) if isinstance(outcome, TerpError) else paused_object(sandbox_id, outcome))

    return await answer_or_drip(
        services.pause(caller.tenant, sandbox_id),
        pace=pace,
        answer=lambda saved: json_response(paused_object(sandbox_id, saved)),
        late=late,
    )


@router.post(
    "/resume",
    operation_id="resume_sandbox",
    summary="Let a paused sandbox run on",
    response_model=SandboxBody,
    responses=errors(400, 404, 409, 422, 502, 503, 504, 507),
)
async def resume(
    caller: Writer,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    _body: NoBody | None = None,
) -> Response:
    """
    Same id, memory, processes and files; a lease of the length that was last set begins. A resume that fails has
    changed nothing, and `fleet_full_retry` means that repeating it can help.

    A resume that takes longer than 20 s is answered with 200 before its end is known; if it then fails, the sandbox
    has the status that it is in, mostly `paused`, and the error's `code` and `detail` beside it.
    """

    async def late(outcome: Sandbox | TerpError) -> bytes:
        if isinstance(outcome, Sandbox):
            return to_json(sandbox_object(outcome, services.previews))
        now = await services.lookup.sandbox(caller.tenant, sandbox_id)
        return to_json({**sandbox_object(now, services.previews), **error_body(outcome)})

    return await answer_or_drip(
        services.resume(caller.tenant, sandbox_id),
        pace=pace,
        answer=lambda sandbox: json_response(sandbox_object(sandbox, services.previews)),
        late=late,
    )
