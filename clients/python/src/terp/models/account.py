"""What a tenant has besides sandboxes: volumes and webhooks; and what all of it uses."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VolumeInfo:
    """
    A volume as the server last described it.

    Attributes:
        id: `vol_` and 26 characters.
        size_mb: In MiB. A ceiling: what is not written takes no room.
        status: `available`, `attached`, `moving`, `stored` or `deleting`; a newer server may know more.
        attached_sandbox_id: Who holds it, from the start of its create to its end, also while it is paused.
        max_lifetime_days, max_lifetime_hours: Counted from its creation; one at most is set.
        expires_at: When it is deleted, or as soon as nobody holds it then.
    """

    id: str
    name: str
    size_mb: int
    status: str
    region: str | None
    node_id: str | None
    attached_sandbox_id: str | None
    max_lifetime_days: int | None
    max_lifetime_hours: int | None
    expires_at: dt.datetime | None
    created_at: dt.datetime | None


@dataclass(frozen=True)
class WebhookInfo:
    """
    A webhook as the server last described it.

    Attributes:
        event_types: Which events it is told; None for all.
        active: False after too many failures in a row, until `enable`.
        consecutive_failures: Deliveries that failed after all their tries.
        secret: What its deliveries are signed with; only of one that was just created.
    """

    id: str
    url: str
    event_types: tuple[str, ...] | None
    active: bool
    consecutive_failures: int
    last_delivery_at: dt.datetime | None
    last_error: str | None
    created_at: dt.datetime | None
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Delivery:
    """
    An event on its way to a webhook.

    Attributes:
        id: What the request says in `X-Orkestr-Delivery`; the same in all tries.
        type: Of the event, e.g. `sandbox.created`.
        status: `pending`, `delivered` or `failed`.
        tries: How often it was sent.
        response_status: What was answered last; None when nothing was.
    """

    id: str
    type: str
    status: str
    tries: int
    created_at: dt.datetime
    next_try_at: dt.datetime | None
    response_status: int | None
    error: str | None
    finished_at: dt.datetime | None


@dataclass(frozen=True)
class MetricsSample:
    """One second of a sandbox: percent of all its processors, and bytes of memory in use."""

    at: dt.datetime
    cpu_percent: float
    memory_bytes: int


@dataclass(frozen=True)
class Metrics:
    """
    What a sandbox uses now, and has used.

    Attributes:
        as_of: When it was measured.
        cores: Virtual processors.
        cores_used, cpu_percent: Now; None unless it runs. With all of them busy it is 100.
        memory_limit_bytes: All it has.
        memory_bytes, memory_percent: Now, without what the kernel could give back; None unless it runs.
        cpu_seconds, gb_seconds: Since it was created, over pauses; a GB is 10^9 bytes.
        samples: The last minute, one a second, oldest first.
    """

    sandbox_id: str
    status: str
    as_of: dt.datetime
    cores: float
    cores_used: float | None
    cpu_percent: float | None
    memory_limit_bytes: int
    memory_bytes: int | None
    memory_percent: float | None
    cpu_seconds: float
    gb_seconds: float
    samples: tuple[MetricsSample, ...] = ()


@dataclass(frozen=True)
class DayUsage:
    """What all sandboxes of a tenant used on one day (UTC)."""

    day: dt.date
    cpu_seconds: float
    gb_seconds: float


@dataclass(frozen=True)
class Usage:
    """What all sandboxes of a tenant used; `days`, oldest first, are those with any. A GB is 10^9 bytes."""

    days: tuple[DayUsage, ...]
    cpu_seconds: float
    gb_seconds: float
