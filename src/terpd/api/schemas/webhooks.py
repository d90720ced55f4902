"""Webhooks and what was sent to them, on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from terpd.api.respond import optional_timestamp, timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.model.webhook import Delivery, EventType, Webhook

_EXAMPLE: JsonDict = {
    "id": "wh_01JG0000000000000000000000",
    "url": "https://example.com/hook",
    "event_types": ["sandbox.created", "sandbox.terminated"],
    "active": True,
    "consecutive_failures": 0,
    "last_delivery_at": None,
    "last_error": None,
    "created_at": "2026-01-01T00:00:00.000000Z",
}


class CreateWebhookBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://example.com/hook"}]})

    url: str = Field(description="http or https, on a public host; no user or password in it")
    event_types: list[str] | None = Field(None, description=f"Null for all of: {', '.join(EventType)}")


class WebhookBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    url: str
    event_types: list[str] | None
    active: bool = Field(description="False once 20 deliveries in a row failed")
    consecutive_failures: int
    last_delivery_at: str | None = Field(description="When something last arrived")
    last_error: str | None = Field(description="Of the last try, if it failed")
    created_at: str


class NewWebhookBody(WebhookBody):
    secret: str = Field(description="Verifies X-Orkestr-Signature; not shown again")


class WebhooksBody(AnswerBody):
    webhooks: list[WebhookBody]


class DeliveryBody(AnswerBody):
    id: str = Field(description="X-Orkestr-Delivery: the same at every try")
    type: str
    status: Literal["pending", "delivered", "failed"]
    created_at: str
    tries: int
    next_try_at: str | None = Field(description="Of a pending one")
    finished_at: str | None
    response_status: int | None = Field(description="HTTP status of the last answer")
    error: str | None


class DeliveriesBody(AnswerBody):
    deliveries: list[DeliveryBody]


def webhook_object(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "event_types": None if webhook.event_types is None else [each.value for each in webhook.event_types],
        "active": webhook.active,
        "consecutive_failures": webhook.failures,
        "last_delivery_at": optional_timestamp(webhook.last_delivery_at),
        "last_error": webhook.last_error,
        "created_at": timestamp(webhook.created_at),
    }


def delivery_object(delivery: Delivery) -> dict[str, Any]:
    pending = delivery.finished_at is None
    return {
        "id": delivery.id,
        "type": delivery.type.value,
        "status": delivery.status.value,
        "created_at": timestamp(delivery.created_at),
        "tries": delivery.tries,
        "next_try_at": timestamp(delivery.next_try_at) if pending else None,
        "finished_at": optional_timestamp(delivery.finished_at),
        "response_status": delivery.response_status,
        "error": delivery.error,
    }
