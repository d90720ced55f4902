"""Webhooks: create, list, switch on again, delete; what was sent to them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from terpd.api.given import GivenServices, GivenWebhookId, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.webhooks import (
    CreateWebhookBody,
    DeliveriesBody,
    NewWebhookBody,
    WebhookBody,
    WebhooksBody,
    delivery_object,
    webhook_object,
)
from terpd.control.webhooks import MAX_DELIVERIES

router = APIRouter(prefix="/v1/sandboxes/webhooks", tags=["webhooks"])


@router.post(
    "",
    operation_id="create_webhook",
    summary="Have events posted to an address",
    status_code=201,
    response_model=NewWebhookBody,
    responses=errors(400, 413, 422, 429, 503),
)
async def create(caller: Writer, services: GivenServices, body: CreateWebhookBody) -> Response:
    """
    Each event is a POST of JSON `{"id", "type", "created_at", "sandbox": {…}}` with `X-Orkestr-Event`,
    `X-Orkestr-Delivery` (the same id at every try: an event may arrive twice) and `X-Orkestr-Signature`: `sha256=` and
    the HMAC-SHA256, in hex, of the body as it arrives, with the whole secret as key.

    An answer 2xx within 10 s is success; redirects are not followed. A delivery that fails is tried 3 times more, 10 s
    apart. After 20 deliveries in a row that failed the webhook is switched off.
    """
    webhook, secret = await services.webhooks.create(caller.tenant, body.url, body.event_types)
    return json_response({**webhook_object(webhook), "secret": secret}, 201)


@router.get(
    "",
    operation_id="list_webhooks",
    summary="List webhooks, newest first",
    response_model=WebhooksBody,
    responses=errors(503),
)
async def list_all(caller: Reader, services: GivenServices) -> Response:
    return json_response({"webhooks": [webhook_object(each) for each in await services.webhooks.list(caller.tenant)]})


@router.post(
    "/{webhook_id}/enable",
    operation_id="enable_webhook",
    summary="Switch a webhook on again",
    response_model=WebhookBody,
    responses=errors(404, 503),
)
async def enable(caller: Writer, services: GivenServices, webhook_id: GivenWebhookId) -> Response:
    """Idempotent; its failures are forgotten. What happened while it was off is not sent."""
    return json_response(webhook_object(await services.webhooks.enable(caller.tenant, webhook_id)))


@router.delete(
    "/{webhook_id}",
    operation_id="delete_webhook",
    summary="Delete a webhook",
    status_code=204,
    response_class=Response,
    responses=errors(404, 503),
)
async def delete(caller: Writer, services: GivenServices, webhook_id: GivenWebhookId) -> Response:
    """Idempotent. What waits to be sent to it is not sent."""
    await services.webhooks.delete(caller.tenant, webhook_id)
    return Response(status_code=204)


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="list_deliveries",
    summary="What was sent to a webhook, and what waits; newest first",
    response_model=DeliveriesBody,
    responses=errors(404, 422, 503),
)
async def deliveries(
    caller: Reader,
    services: GivenServices,
    webhook_id: GivenWebhookId,
    limit: Annotated[int, Query(ge=1, description=f"Above {MAX_DELIVERIES} counts as {MAX_DELIVERIES}")] = 50,
) -> Response:
    """Finished ones are kept for 7 days, and the newest 1000 of a webhook at most."""
    found = await services.webhooks.deliveries(caller.tenant, webhook_id, min(limit, MAX_DELIVERIES))
    return json_response({"deliveries": [delivery_object(each) for each in found]})
