"""Webhooks: what happens to a tenant's sandboxes, told to an address of its own, at least once."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from terpd.model.ids import TenantId, WebhookId
from terpd.model.sandbox import EndReason, Sandbox, Status

MAX_WEBHOOKS = 32  # of one tenant
MAX_URL_CHARS = 2048
MAX_FAILURES = 20  # in a row; then the webhook is switched off
RETRIES = 3
RETRY_AFTER_S = 10.0
MAX_PENDING = 1000  # deliveries of one webhook that wait; above, the oldest fail unsent
KEPT_DAYS = 7  # finished deliveries are kept for so long
KEPT_DELIVERIES = 1000  # of one webhook, at most


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
    """
    Something that happened. `data` is what its body says besides type, id and time.

    `tenant` None: it concerns all tenants, as templates do.
    """

    type: EventType
    tenant: TenantId | None
    at: dt.datetime
    data: Mapping[str, Any]


def event_of(before: Sandbox, after: Sandbox, at: dt.datetime) -> Event | None:
    """What a change of status is to the sandbox's owner; None for steps between and for what was undone."""
    kind = _event_type(before.status, after)
    return None if kind is None else Event(kind, after.tenant, at, {"sandbox": _told(after)})


_STEPS = {
    (Status.STARTING, Status.RUNNING): EventType.SANDBOX_CREATED,
    (Status.RESUMING, Status.RUNNING): EventType.SANDBOX_RESUMED,
    (Status.PAUSING, Status.PAUSED): EventType.SANDBOX_PAUSED,
}


def _event_type(before: Status, after: Sandbox) -> EventType | None:
    if after.status is Status.FAILED:
        return EventType.SANDBOX_FAILED
    if after.status is Status.TERMINATED:
        expired = after.end_reason in {EndReason.LEASE, EndReason.PAUSED_TOO_LONG}
        return EventType.SANDBOX_EXPIRED if expired else EventType.SANDBOX_TERMINATED
    return _STEPS.get((before, after.status))


def _told(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "id": sandbox.id,
        "template": sandbox.template,
        "status": sandbox.status.value,
        "end_reason": None if sandbox.end_reason is None else sandbox.end_reason.value,
        "metadata": dict(sandbox.metadata),
        "created_at": _timestamp(sandbox.created_at),
        "expires_at": _timestamp(sandbox.expires_at),
    }


def body_of(event: Event, delivery_id: str) -> bytes:
    """The body of one delivery: a JSON object in ASCII. It says the same at every try."""
    content = {"id": delivery_id, "type": event.type.value, "created_at": _timestamp(event.at), **event.data}
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _timestamp(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True)
class Webhook:
    """
    `event_types` None: all. `sealed_secret` is the signing secret, wrapped by the server's key.

    `failures` counts deliveries in a row that failed after all their tries; `last_error` is of the last try that failed
    since one went well. `last_delivery_at` is when something last arrived.
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
