"""Webhooks: what happens to a tenant's sandboxes, told to an address of its own, at least once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from terpd.model.ids import TenantId, WebhookId

MAX_WEBHOOKS = 32  # of one tenant
MAX_URL_CHARS = 2048
MAX_FAILURES = 20  # in a row; then the webhook is switched off
RETRIES = 3
RETRY_AFTER_S = 10.0


class EventType(StrEnum):
    SANDBOX_CREATED = "sandbox.created"
    SANDBOX_PAUSED = "sandbox.paused"
    SANDBOX_RESUMED = "sandbox.resumed"
    SANDBOX_TERMINATED = "sandbox.terminated"  # by its owner, or with its host
    SANDBOX_EXPIRED = "sandbox.expired"  # its lease, or its time as a paused one, ran out
    SANDBOX_FAILED = "sandbox.failed"
    TEMPLATE_BUILD_FINISHED = "template.build_finished"
    VOLUME_MOVED = "volume.moved"
    VOLUME_EXPIRED = "volume.expired"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `data` is what its body says besides type, id and time."""

    type: EventType
    tenant: TenantId
    at: dt.datetime
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Webhook:
    """
    `event_types` None: all. `sealed_secret` is the signing secret, wrapped by the server's key.

    `failures` counts deliveries in a row that failed after all their tries.
    """

    id: WebhookId
    tenant: TenantId
    url: str
    event_types: Sequence[EventType] | None
    active: bool
    created_at: dt.datetime
    failures: int = 0
    last_delivery_at: dt.datetime | None = None
    last_error: str | None = None
    sealed_secret: bytes = field(default=b"", repr=False)


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one webhook. `body` is sent, and signed, exactly as it stands there."""

    id: str
    webhook_id: WebhookId
    type: EventType
    body: bytes
    status: DeliveryStatus
    created_at: dt.datetime
    next_try_at: dt.datetime
    tries: int = 0
    response_status: int | None = None
    error: str | None = None
    finished_at: dt.datetime | None = None
