"""Take, look up and delete named snapshots."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.errors import error_body
from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, GivenSnapshotId, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.snapshots import SnapshotBody, SnapshotNameBody, SnapshotsBody, failed_object, snapshot_object
from terpd.model.errors import TerpError
from terpd.model.snapshot import Snapshot

router = APIRouter(prefix="/v1/sandboxes", tags=["snapshots"])


@router.get(
    "/snapshots",
    operation_id="list_snapshots",
    summary="List named snapshots, newest first",
    response_model=SnapshotsBody,
    responses=errors(503),
)
async def list_all(caller: Reader, services: GivenServices) -> Response:
    found = await services.snapshots.list(caller.tenant)
    return json_response({"snapshots": [snapshot_object(snapshot) for snapshot in found]})


@router.get(
    "/snapshots/{snapshot_id}",
    operation_id="get_snapshot",
    summary="Look a snapshot up",
    response_model=SnapshotBody,
    responses=errors(404, 503),
)
async def get(caller: Reader, services: GivenServices, snapshot_id: GivenSnapshotId) -> Response:
    return json_response(snapshot_object(await services.snapshots.get(caller.tenant, snapshot_id)))


@router.delete(
    "/snapshots/{snapshot_id}",
    operation_id="delete_snapshot",
    summary="Delete a snapshot",
    status_code=204,
    response_class=Response,
    responses=errors(404, 503),
)
async def delete(caller: Writer, services: GivenServices, snapshot_id: GivenSnapshotId) -> Response:
    """Idempotent. Its key is destroyed; sandboxes that were created from it have keys of their own and run on."""
    await services.snapshots.delete(caller.tenant, snapshot_id)
    return Response(status_code=204)


@router.post(
    "/{sandbox_id}/snapshots",
    operation_id="take_snapshot",
    summary="Keep a running sandbox as it is now, to create others from",
    status_code=201,
    response_model=SnapshotBody,
    responses=errors(400, 404, 409, 413, 422, 502, 503, 504, 507),
)
async def take(
    caller: Writer,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    body: SnapshotNameBody | None = None,
) -> Response:
    """
    Answered when it is ready. The source stands still for a moment and runs on; the snapshot outlives it.

    A snapshot that takes longer than 20 s is answered with 201 before its end is known; if it then fails, it has the
    status `failed`, an empty `id`, and the error's `code` and `detail` beside it.
    """
    body = body or SnapshotNameBody.model_validate({})
    name = body.name

    async def late(outcome: Snapshot | TerpError) -> bytes:
        if isinstance(outcome, Snapshot):
            return to_json(snapshot_object(outcome))
        source = await services.lookup.sandbox(caller.tenant, sandbox_id)
        return to_json({**failed_object(source, name, outcome), **error_body(outcome)})

    return await answer_or_drip(
        services.snapshots.create(caller.tenant, sandbox_id, name, include_secrets=body.include_secrets),
        pace=pace,
        answer=lambda snapshot: json_response(snapshot_object(snapshot), 201),
        late=late,
        status=201,
    )
