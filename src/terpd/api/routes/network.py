"""What a sandbox may reach, what it tried to reach, and where its ports are reached."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query, Response

from terpd.api.given import GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.network import (
    DecisionName,
    EgressPage,
    HostBody,
    NetworkAnswer,
    NetworkBody,
    egress_object,
    network_object,
    traffic_object,
)
from terpd.model.network import Decision, EgressFilter

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}", tags=["network"])

_MOST = 1000


@router.patch(
    "/network",
    operation_id="set_sandbox_network",
    summary="Change what a sandbox may reach",
    response_model=NetworkAnswer,
    responses=errors(400, 404, 409, 413, 422, 503),
)
async def set_network(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: NetworkBody
) -> Response:
    """It holds when this answers, also for connections under way; for a paused sandbox, from its resume on."""
    return json_response(network_object(await services.network.set(caller.tenant, sandbox_id, body.to_change())))


@router.get(
    "/egress",
    operation_id="list_sandbox_egress",
    summary="List a sandbox's connections, newest first",
    response_model=EgressPage,
    responses=errors(404, 422, 503),
)
async def list_egress(
    caller: Reader,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    decision: DecisionName | None = None,
    name: Annotated[str | None, Query(max_length=254, description="Exactly this host name")] = None,
    since: Annotated[dt.datetime | None, Query(description="With an offset, or taken for UTC")] = None,
    limit: Annotated[int, Query(ge=1, description=f"Above {_MOST} counts as {_MOST}")] = 100,
    cursor: Annotated[str | None, Query(max_length=64, description="next_cursor of the page before")] = None,
) -> Response:
    """Connections appear when they are over. Those of ended sandboxes stay readable as long as records are kept."""
    wanted = min(limit, _MOST)
    found = await services.egress.list(
        caller.tenant,
        sandbox_id,
        EgressFilter(
            decision=None if decision is None else Decision(decision),
            name=name,
            since=since if since is None or since.tzinfo else since.replace(tzinfo=dt.UTC),
            before=cursor,
            limit=wanted,
        ),
    )
    return json_response(
        {
            "connections": [egress_object(record) for record in found],
            "traffic": traffic_object(await services.egress.traffic(caller.tenant, sandbox_id)),
            # A full last page costs one more question, which comes back empty.
            "next_cursor": found[-1].id if len(found) == wanted else None,
        }
    )


@router.get(
    "/host",
    operation_id="get_sandbox_host",
    summary="The host name of a port's preview",
    response_model=HostBody,
    responses=errors(404, 409, 422, 503),
)
async def get_host(
    caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, port: Annotated[int, Query(ge=1, le=65535)]
) -> Response:
    """It stays the same for the sandbox's life, whether anybody listens on that port or not."""
    return json_response({"host": await services.previews.host(caller.tenant, sandbox_id, port)})
