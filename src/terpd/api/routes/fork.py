"""Fork sandboxes."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.errors import error_body
from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.fork import ForkBody, ForkedBody, forked_object
from terpd.control.fork import Forked
from terpd.model.errors import TerpError

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}", tags=["snapshots"])


@router.post(
    "/fork",
    operation_id="fork_sandbox",
    summary="Start others from a running sandbox",
    status_code=201,
    response_model=ForkedBody,
    responses=errors(400, 404, 409, 413, 422, 502, 503, 504, 507),
)
async def fork(
    caller: Writer,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    body: ForkBody | None = None,
) -> Response:
    """
    Each child has the source's memory, processes and files of one moment, and an id, names and random numbers of its
    own. The source runs on. Either all children run or there is none.

    A fork that takes longer than 20 s is answered with 201 before its end is known; if it then fails, `sandboxes` is
    empty and has the error's `code` and `detail` beside it.
    """

    async def late(outcome: Forked | TerpError) -> bytes:
        if isinstance(outcome, TerpError):
            return to_json({"sandboxes": [], "stopped_ms": None, **error_body(outcome)})
        return to_json(forked_object(outcome, services.previews))

    return await answer_or_drip(
        services.fork(caller.tenant, sandbox_id, (body or ForkBody.model_validate({})).to_request()),
        pace=pace,
        answer=lambda forked: json_response(forked_object(forked, services.previews), 201),
        late=late,
        status=201,
    )
