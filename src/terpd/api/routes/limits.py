"""What the caller may use: limits and templates."""

from __future__ import annotations

from fastapi import APIRouter, Response

from terpd.api.given import GivenServices, Reader
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.limits import LimitsBody, TemplatesBody, limits_object, template_object

router = APIRouter(prefix="/v1", tags=["limits"])


@router.get(
    "/sandboxes/limits",
    operation_id="get_limits",
    summary="What may be used, and what is in use",
    response_model=LimitsBody,
    responses=errors(503),
)
async def limits(caller: Reader, services: GivenServices) -> Response:
    return json_response(limits_object(await services.lookup.limits(caller.tenant)))


@router.get(
    "/templates",
    operation_id="list_templates",
    summary="List the templates built here",
    response_model=TemplatesBody,
    responses=errors(503),
)
async def templates(_caller: Reader, services: GivenServices) -> Response:
    return json_response({"templates": [template_object(t) for t in await services.lookup.templates()]})
