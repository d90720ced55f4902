"""Variables of commands to come."""

from __future__ import annotations

from fastapi import APIRouter, Response

from terpd.api.given import GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.environment import EnvChangeBody, EnvNamesBody
from terpd.api.schemas.errors import errors

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/env", tags=["environment"])

_COMMON = (404, 409, 502, 503, 504, 507)


@router.get(
    "",
    operation_id="list_env",
    summary="List the names of variables that were set later",
    response_model=EnvNamesBody,
    responses=errors(*_COMMON),
)
async def names(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId) -> Response:
    """Without those that the sandbox was created with. Values cannot be read back."""
    return json_response({"names": await services.environment.names(caller.tenant, sandbox_id)})


@router.patch(
    "",
    operation_id="change_env",
    summary="Set variables of commands to come",
    response_model=EnvNamesBody,
    responses=errors(400, 413, 422, 429, *_COMMON),
)
async def change(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: EnvChangeBody) -> Response:
    """
    Over what the sandbox was created with and under a command's own `env`; processes that run keep what they have. All
    or nothing. The values are in the guest's memory only: they are kept over a pause and, unless `include_secrets` is
    given, left out of snapshots and forks. Should the server die while it takes one of these, they are lost, and the
    names with them.
    """
    found = await services.environment.change(caller.tenant, sandbox_id, body.to_set, body.to_unset)
    return json_response({"names": found})
