"""Make, look up, move and delete volumes."""

from __future__ import annotations

from fastapi import APIRouter, Response
from pydantic_core import to_json

from terpd.api.drip import answer_or_drip
from terpd.api.errors import error_body
from terpd.api.given import GivenPace, GivenServices, GivenVolumeId, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.volumes import (
    VolumeBody,
    VolumeCreateBody,
    VolumeLifetimeBody,
    VolumeMoveBody,
    VolumesBody,
    volume_object,
)
from terpd.model.errors import TerpError
from terpd.model.volume import Volume

router = APIRouter(prefix="/v1/sandboxes", tags=["volumes"])


@router.post(
    "/volumes",
    operation_id="create_volume",
    summary="Make a volume",
    status_code=201,
    response_model=VolumeBody,
    responses=errors(400, 409, 413, 422, 503),
)
async def create(caller: Writer, services: GivenServices, body: VolumeCreateBody) -> Response:
    """
    Its disk is made when it is attached first: create a sandbox with `volume`, which finds it at /persist.
    """
    return json_response(volume_object(await services.volumes.create(caller.tenant, body.to_request())), 201)


@router.get(
    "/volumes",
    operation_id="list_volumes",
    summary="List volumes, newest first",
    response_model=VolumesBody,
    responses=errors(503),
)
async def list_all(caller: Reader, services: GivenServices) -> Response:
    found = await services.volumes.list(caller.tenant)
    return json_response({"volumes": [volume_object(volume) for volume in found]})


@router.get(
    "/volumes/{volume_id}",
    operation_id="get_volume",
    summary="Look a volume up",
    response_model=VolumeBody,
    responses=errors(404, 503),
)
async def get(caller: Reader, services: GivenServices, volume_id: GivenVolumeId) -> Response:
    return json_response(volume_object(await services.volumes.get(caller.tenant, volume_id)))


@router.patch(
    "/volumes/{volume_id}",
    operation_id="set_volume_lifetime",
    summary="Set or clear a volume's lifetime",
    response_model=VolumeBody,
    responses=errors(400, 404, 413, 422, 503),
)
async def set_lifetime(
    caller: Writer, services: GivenServices, volume_id: GivenVolumeId, body: VolumeLifetimeBody
) -> Response:
    """Counted from its creation. One that is over by then is deleted soon, or once no sandbox holds it."""
    changed = await services.volumes.set_lifetime(caller.tenant, volume_id, body.to_lifetime())
    return json_response(volume_object(changed))


@router.post(
    "/volumes/{volume_id}/move",
    operation_id="move_volume",
    summary="Bring a volume to the artifact store",
    response_model=VolumeBody,
    responses=errors(400, 404, 409, 413, 422, 503, 507),
)
async def move(
    caller: Writer, services: GivenServices, pace: GivenPace, volume_id: GivenVolumeId, body: VolumeMoveBody
) -> Response:
    """
    Of one that no sandbox holds. The next sandbox that names it fetches it.

    A move that takes longer than 20 s is answered with 200 before its end is known; if it then fails, the volume has
    the error's `code` and `detail` beside its fields.
    """

    async def late(outcome: Volume | TerpError) -> bytes:
        if isinstance(outcome, Volume):
            return to_json(volume_object(outcome))
        volume = await services.volumes.get(caller.tenant, volume_id)
        return to_json({**volume_object(volume), **error_body(outcome)})

    return await answer_or_drip(
        services.volumes.move(caller.tenant, volume_id, body.region),
        pace=pace,
        answer=lambda volume: json_response(volume_object(volume)),
        late=late,
        status=200,
    )


@router.delete(
    "/volumes/{volume_id}",
    operation_id="delete_volume",
    summary="Delete a volume",
    status_code=204,
    response_class=Response,
    responses=errors(404, 409, 503),
)
async def delete(caller: Writer, services: GivenServices, volume_id: GivenVolumeId) -> Response:
    """Idempotent. Its key is destroyed at once; GET /v1/deletion-receipts has the receipt. Its files go soon after."""
    await services.volumes.delete(caller.tenant, volume_id)
    return Response(status_code=204)
