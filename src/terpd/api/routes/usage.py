"""What a sandbox uses, and what a tenant used."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query, Response

from terpd.api.given import GivenSandboxId, GivenServices, Reader
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.usage import SandboxMetricsBody, UsageByDayBody, days_object, metrics_object

router = APIRouter(prefix="/v1", tags=["usage"])

_LATEST = 253402300799  # the last second that has a four-digit year


@router.get(
    "/sandboxes/{sandbox_id}/metrics",
    operation_id="get_sandbox_metrics",
    summary="What a sandbox uses now, and has used in all",
    response_model=SandboxMetricsBody,
    responses=errors(404, 422, 503),
)
async def metrics(
    caller: Reader,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    since: Annotated[
        int | None, Query(ge=0, le=_LATEST, description="Unix time in seconds: only samples after it")
    ] = None,
) -> Response:
    """
    Processor time and memory of the whole machine, its monitor included. One that does not run has null usage, no
    samples, and its lifetime.
    """
    after = None if since is None else dt.datetime.fromtimestamp(since, dt.UTC)
    return json_response(metrics_object(await services.usage.of_sandbox(caller.tenant, sandbox_id, after)))


@router.get(
    "/usage",
    operation_id="get_usage",
    summary="What all sandboxes used, by day",
    response_model=UsageByDayBody,
    responses=errors(422, 503),
)
async def by_day(
    caller: Reader,
    services: GivenServices,
    since: Annotated[
        dt.date | None, Query(description="First day, in UTC; 29 days before the last one if left out")
    ] = None,
    until: Annotated[dt.date | None, Query(description="Last day; today if left out")] = None,
) -> Response:
    return json_response(days_object(await services.usage.by_day(caller.tenant, since, until)))
