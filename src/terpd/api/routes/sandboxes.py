"""Create, look up, renew and terminate sandboxes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.errors import error_body
from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response, timestamp
from terpd.api.schemas.errors import errors
from terpd.api.schemas.sandboxes import (
    CreateBody,
    LeaseBody,
    SandboxBody,
    SandboxPage,
    StatusName,
    TimeoutBody,
    cursor_after,
    metadata_filter,
    parse_cursor,
    sandbox_object,
)
from terpd.control.create import request_digest
from terpd.model.errors import TerpError
from terpd.model.ports import Idempotency, SandboxFilter
from terpd.model.sandbox import EndReason, Sandbox, Status

router = APIRouter(prefix="/v1/sandboxes", tags=["sandboxes"])


@router.post(
    "",
    operation_id="create_sandbox",
    summary="Create a sandbox",
    status_code=201,
    response_model=SandboxBody,
    responses=errors(400, 404, 409, 413, 422, 502, 503, 504, 507),
)
async def create(
    caller: Writer,
    services: GivenServices,
    pace: GivenPace,
    body: CreateBody,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="A create repeated with this key and body returns the same sandbox; env values are not compared"
        ),
    ] = None,
) -> Response:
    """
    Return the sandbox when it runs. A create that fails creates nothing, and `fleet_full_retry` means that repeating
    it can help.

    A create that takes longer than 20 s is answered with 201 before its end is known; if it then fails, the sandbox
    has the status `failed` and the error's `code` and `detail` beside it.
    """
    planned = await services.create.plan(caller.tenant, body.to_request())
    idempotency = None
    if idempotency_key is not None:
        # Names without their values: a digest of secrets in the store could be tried against guesses.
        secrets = [secret.model_dump(exclude={"value"}) for secret in body.secrets]
        request = {**body.model_dump(exclude={"secrets"}), "env": sorted(body.env), "secrets": secrets}
        canonical = json.dumps(request, sort_keys=True).encode()
        idempotency = Idempotency(idempotency_key, request_digest(canonical))

    async def late(outcome: Sandbox | TerpError) -> bytes:
        if isinstance(outcome, Sandbox):
            return to_json(sandbox_object(outcome, services.previews))
        failed = replace(planned.sandbox, status=Status.FAILED, end_reason=EndReason.START_FAILED)
        return to_json({**sandbox_object(failed, services.previews), **error_body(outcome)})

    return await answer_or_drip(
        services.create(planned, idempotency=idempotency),
        pace=pace,
        answer=lambda sandbox: json_response(sandbox_object(sandbox, services.previews), 201),
        late=late,
        status=201,
    )


@router.get(
    "",
    operation_id="list_sandboxes",
    summary="List sandboxes, newest first",
    response_model=SandboxPage,
    responses=errors(422, 503),
)
async def list_page(
    caller: Reader,
    services: GivenServices,
    request: Request,
    limit: Annotated[int, Query(ge=1, description="Above 200 counts as 200")] = 50,
    status: StatusName | None = None,
    cursor: str | None = None,
) -> Response:
    """Filter by metadata with `metadata[<key>]=<value>`, percent-encoded; all given pairs must match exactly."""
    wanted = metadata_filter(request.query_params.multi_items())
    before = None if not cursor else parse_cursor(cursor)
    page = await services.lookup.sandboxes(
        caller.tenant,
        SandboxFilter(
            status=None if status is None else Status(status), metadata=wanted, before=before, limit=min(limit, 200)
        ),
    )
    return json_response(
        {
            "sandboxes": [sandbox_object(sandbox, services.previews) for sandbox in page.sandboxes],
            "next_cursor": cursor_after(page.next_before),
        }
    )


@router.get(
    "/{sandbox_id}",
    operation_id="get_sandbox",
    summary="Look a sandbox up",
    response_model=SandboxBody,
    responses=errors(404, 503),
)
async def get(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId) -> Response:
    """Sandboxes that ended stay readable."""
    return json_response(sandbox_object(await services.lookup.sandbox(caller.tenant, sandbox_id), services.previews))


@router.delete(
    "/{sandbox_id}",
    operation_id="terminate_sandbox",
    summary="Terminate a sandbox",
    status_code=204,
    response_class=Response,
    responses=errors(404, 502, 503, 504),
)
async def terminate(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId) -> Response:
    """
    Idempotent. Commands that still run end with `state_conflict`.

    The key of all that was saved of it is destroyed; GET /v1/deletion-receipts has the receipt.
    """
    await services.terminate(caller.tenant, sandbox_id)
    return Response(status_code=204)


@router.post(
    "/{sandbox_id}/timeout",
    operation_id="set_sandbox_timeout",
    summary="Set a sandbox's lease anew",
    response_model=LeaseBody,
    responses=errors(400, 404, 409, 413, 422, 503),
)
async def set_timeout(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: TimeoutBody
) -> Response:
    """
    It then ends `timeout_seconds` from now; what was left of it does not count. A resume begins a lease of this length.
    """
    sandbox = await services.renew(caller.tenant, sandbox_id, body.timeout_seconds)
    return json_response({"expires_at": timestamp(sandbox.expires_at)})
