"""Whether the server lives and is ready, for whoever watches it; its figures, for the operator's key only."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from terpd.api.given import GivenServices, Operator
from terpd.api.metrics import Figures, Metrics
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.shape import AnswerBody
from terpd.model.sandbox import Status

router = APIRouter(tags=["health"])


class HealthBody(AnswerBody):
    status: str


@router.get("/healthz", operation_id="health", summary="Whether the process answers", response_model=HealthBody)
async def healthz() -> Response:
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    operation_id="ready",
    summary="Whether store and node answer",
    response_model=HealthBody,
    responses={503: errors(503)[503]},
)
async def readyz(services: GivenServices) -> Response:
    await services.store.ping()
    await services.node.capacity()
    return json_response({"status": "ready"})


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures in Prometheus' text format; needs the scope metrics:read",
    response_class=Response,
    responses={200: {"description": "Figures", "content": {"text/plain": {}}}, **errors(502, 503)},
)
async def metrics(_caller: Operator, services: GivenServices, request: Request) -> Response:
    figures: Metrics = request.app.state.metrics
    node, store = services.node, services.store
    saved = {
        "paused": sum(sandbox.status is Status.PAUSED for sandbox in await store.live_sandboxes(node.node_id)),
        "snapshot": len(await store.snapshots_on_node(node.node_id)),
    }
    counted = Figures(
        saved,
        volumes=len(await store.volumes_on_node(node.node_id)),
        deliveries_waiting=await store.count_pending_deliveries(),
        tries=services.deliveries.outcomes,
        cpu_seconds=services.usage.cpu_seconds,
    )
    return Response(figures.render(await node.capacity(), counted), media_type=CONTENT_TYPE_LATEST)
