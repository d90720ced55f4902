"""Volumes, webhooks and figures: their requests and replies."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from terp import models
from terp.errors import InvalidRequest
from terp.protocol.reading import Json, misshapen, names, optional, time
from terp.protocol.request import Repeat, Request, sandbox_path, volume_path, webhook_path, with_query

# ---- volumes -------------------------------------------------------------------------------------


def create_volume(
    *,
    name: str,
    size_gb: float,
    region: str | None,
    max_lifetime_days: int | None,
    max_lifetime_hours: int | None,
) -> Request:
    body = {
        "name": name,
        "size_gb": size_gb,
        "region": region,
        "max_lifetime_days": max_lifetime_days,
        "max_lifetime_hours": max_lifetime_hours,
    }
    body = {key: value for key, value in body.items() if value is not None}
    return Request("POST", "/v1/sandboxes/volumes", body)


def list_volumes() -> Request:
    return Request("GET", "/v1/sandboxes/volumes", repeat=Repeat.IF_LOST)


def get_volume(volume_id: str) -> Request:
    return Request("GET", volume_path(volume_id), repeat=Repeat.IF_LOST)


def update_volume(volume_id: str, lifetime: Mapping[str, int | None]) -> Request:
    """
    Raises:
        InvalidRequest: Not exactly one is given.
    """
    if len(lifetime) != 1:
        raise InvalidRequest("Give one of max_lifetime_days and max_lifetime_hours; None for no end")
    return Request("PATCH", volume_path(volume_id), dict(lifetime), repeat=Repeat.IF_LOST)


def move_volume(volume_id: str, region: str) -> Request:
    return Request("POST", volume_path(volume_id, "move"), {"region": region})


def delete_volume(volume_id: str) -> Request:
    return Request("DELETE", volume_path(volume_id), repeat=Repeat.IF_LOST)


def read_volume(body: Json) -> models.VolumeInfo:
    try:
        return models.VolumeInfo(
            id=str(body["id"]),
            name=str(body["name"]),
            size_mb=int(body["size_mb"]),
            status=str(body["status"]),
            region=optional(str, body.get("region")),
            node_id=optional(str, body.get("node_id")),
            attached_sandbox_id=optional(str, body.get("attached_sandbox_id")),
            max_lifetime_days=optional(int, body.get("max_lifetime_days")),
            max_lifetime_hours=optional(int, body.get("max_lifetime_hours")),
            expires_at=optional(time, body.get("expires_at")),
            created_at=optional(time, body.get("created_at")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("a volume", error) from error


def read_volumes(body: Json) -> list[models.VolumeInfo]:
    return [read_volume(row) for row in _rows(body, "volumes")]


# ---- webhooks ------------------------------------------------------------------------------------


def create_webhook(url: str, event_types: Sequence[str] | None) -> Request:
    """
    Raises:
        InvalidRequest: The types are no list.
    """
    if isinstance(event_types, str):
        raise InvalidRequest(f"event_types is a list of names, like [{event_types!r}]")
    body: dict[str, object] = {"url": url} if event_types is None else {"url": url, "event_types": list(event_types)}
    return Request("POST", "/v1/sandboxes/webhooks", body)


def list_webhooks() -> Request:
    return Request("GET", "/v1/sandboxes/webhooks", repeat=Repeat.IF_LOST)


def enable_webhook(webhook_id: str) -> Request:
    return Request("POST", webhook_path(webhook_id, "enable"), repeat=Repeat.IF_LOST)


def delete_webhook(webhook_id: str) -> Request:
    return Request("DELETE", webhook_path(webhook_id), repeat=Repeat.IF_LOST)


def list_deliveries(webhook_id: str) -> Request:
    return Request("GET", webhook_path(webhook_id, "deliveries"), repeat=Repeat.IF_LOST)


def read_webhook(body: Json) -> models.WebhookInfo:
    try:
        return models.WebhookInfo(
            id=str(body["id"]),
            url=str(body["url"]),
            event_types=optional(names, body.get("event_types")),
            active=bool(body.get("active", True)),
            consecutive_failures=int(body.get("consecutive_failures") or 0),
            last_delivery_at=optional(time, body.get("last_delivery_at")),
            last_error=optional(str, body.get("last_error")),
            created_at=optional(time, body.get("created_at")),
            secret=optional(str, body.get("secret")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("a webhook", error) from error


def read_webhooks(body: Json) -> list[models.WebhookInfo]:
    return [read_webhook(row) for row in _rows(body, "webhooks")]


def read_deliveries(body: Json) -> list[models.Delivery]:
    try:
        return [
            models.Delivery(
                id=str(row["id"]),
                type=str(row["type"]),
                status=str(row["status"]),
                tries=int(row.get("tries") or 0),
                created_at=time(row["created_at"]),
                next_try_at=optional(time, row.get("next_try_at")),
                response_status=optional(int, row.get("response_status")),
                error=optional(str, row.get("error")),
                finished_at=optional(time, row.get("finished_at")),
            )
            for row in _rows(body, "deliveries")
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("deliveries", error) from error


def verify_webhook(body: bytes | str, signature: str, secret: str) -> bool:
    """
    Say whether a webhook's request is the server's.

        if not verify_webhook(request.body, request.headers["X-Orkestr-Signature"], secret):
            return 401

    Args:
        body: The request's body, exactly as it came.
        signature: Its header `X-Orkestr-Signature`.
        secret: `Webhook.create(...).secret`, whole.

    It takes as long for a wrong signature as for the right one.
    """
    data = body.encode() if isinstance(body, str) else body
    wanted = "sha256=" + hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted.encode(), signature.encode(errors="replace"))


# ---- figures -------------------------------------------------------------------------------------


def metrics(sandbox_id: str, *, since: dt.datetime | None) -> Request:
    path = sandbox_path(sandbox_id, "metrics")
    target = path if since is None else with_query(path, {"since": str(int(since.timestamp()))})
    return Request("GET", target, repeat=Repeat.IF_LOST)


def usage(*, since: dt.date | None, until: dt.date | None) -> Request:
    query = {key: _day(value) for key, value in (("since", since), ("until", until)) if value is not None}
    target = with_query("/v1/usage", query) if query else "/v1/usage"
    return Request("GET", target, repeat=Repeat.IF_LOST)


def read_metrics(body: Json) -> models.Metrics:
    try:
        cpu, memory, lifetime = body["cpu"], body["memory"], body["lifetime"]
        return models.Metrics(
            sandbox_id=str(body["sandbox_id"]),
            status=str(body["sandbox_status"]),
            as_of=time(body["as_of"]),
            cores=float(cpu["cores"]),
            cores_used=optional(float, cpu.get("usage_cores")),
            cpu_percent=optional(float, cpu.get("usage_percent")),
            memory_limit_bytes=int(memory["limit_bytes"]),
            memory_bytes=optional(int, memory.get("usage_bytes")),
            memory_percent=optional(float, memory.get("usage_percent")),
            cpu_seconds=float(lifetime["cpu_seconds"]),
            gb_seconds=float(lifetime["gb_seconds"]),
            samples=tuple(
                models.MetricsSample(time(row["t"]), float(row["cpu_percent"]), int(row["mem_bytes"]))
                for row in body.get("samples") or ()
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("metrics", error) from error


def read_usage(body: Json) -> models.Usage:
    try:
        total = body["total"]
        return models.Usage(
            days=tuple(
                models.DayUsage(
                    dt.date.fromisoformat(str(row["day"])), float(row["cpu_seconds"]), float(row["gb_seconds"])
                )
                for row in body["days"]
            ),
            cpu_seconds=float(total["cpu_seconds"]),
            gb_seconds=float(total["gb_seconds"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("usage", error) from error


def _day(value: dt.date) -> str:
    """The day of UTC that a time is on; one without a zone is local, as everywhere."""
    day = value.astimezone(dt.timezone.utc).date() if isinstance(value, dt.datetime) else value
    return day.isoformat()


def _rows(body: Json, name: str) -> list[Any]:
    rows = body.get(name)
    if not isinstance(rows, list):
        raise misshapen(name, "no list")
    return rows
