"""Replies about sandboxes, their network, and what is saved of them."""

from __future__ import annotations

import dataclasses
import datetime as dt

from terp import models
from terp.protocol.reading import Json, misshapen, names, optional, time


def read_sandbox(body: Json) -> models.SandboxInfo:
    try:
        return models.SandboxInfo(
            id=str(body["id"]),
            status=str(body["status"]),
            template=str(body["template"]),
            size=optional(str, body.get("size")),
            network=str(body["network"]),
            cpu=float(body["cpu"]),
            memory_mb=int(body["memory_mb"]),
            region=str(body.get("region") or ""),
            created_at=time(body["created_at"]),
            expires_at=time(body["expires_at"]),
            on_timeout=str(body.get("on_timeout") or "kill"),
            end_reason=optional(str, body.get("end_reason")),
            metadata={str(key): str(value) for key, value in (body.get("metadata") or {}).items()},
            auto_resume=bool(body.get("auto_resume")),
            snapshot=optional(str, body.get("snapshot")),
            paused_expires_at=optional(time, body.get("paused_expires_at")),
            stored_bytes=optional(int, body.get("stored_bytes")),
            allow_domains=optional(names, body.get("allow_domains")),
            report_only=bool(body.get("report_only")),
            secrets=names(body.get("secrets") or ()),
            preview_auth=bool(body.get("preview_auth")),
            preview_auth_token=optional(str, body.get("preview_auth_token")),
            volume=optional(str, body.get("volume")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("a sandbox", error) from error


def read_sandboxes(body: Json) -> list[models.SandboxInfo]:
    rows = body.get("sandboxes")
    if not isinstance(rows, list):
        raise misshapen("several sandboxes", "no list")
    return [read_sandbox(row) for row in rows]


def read_page(body: Json) -> tuple[list[models.SandboxInfo], str | None]:
    """Return the page's sandboxes and the cursor of the next; None when it is the last."""
    return read_sandboxes(body), body.get("next_cursor") or None


def read_paused(body: Json) -> models.Paused:
    try:
        return models.Paused(
            stored_bytes=int(body["stored_bytes"]),
            dirty_bytes=int(body["dirty_bytes"]),
            stopped_ms=float(body["stopped_ms"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a pause", error) from error


def read_network(body: Json, info: models.SandboxInfo) -> models.SandboxInfo:
    """Return *info* with the policy that a change of it was answered with."""
    try:
        return dataclasses.replace(
            info,
            network=str(body["network"]),
            allow_domains=optional(names, body["allow_domains"]),
            report_only=bool(body["report_only"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a network", error) from error


def read_egress(body: Json) -> tuple[list[models.Connection], str | None]:
    """Return the page's connections and the cursor of the next; None when it is the last."""
    try:
        connections = [
            models.Connection(
                id=str(row["id"]),
                at=time(row["at"]),
                protocol=str(row["protocol"]),
                name=optional(str, row["name"]),
                address=optional(str, row["address"]),
                port=int(row["port"]),
                decision=str(row["decision"]),
                reason=str(row["reason"]),
                bytes_out=int(row["bytes_out"]),
                bytes_in=int(row["bytes_in"]),
                duration_ms=int(row["duration_ms"]),
                credential=optional(str, row.get("credential")),
            )
            for row in body["connections"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("connections", error) from error
    return connections, body.get("next_cursor") or None


def read_traffic(body: Json) -> models.Traffic:
    try:
        said = body["traffic"]
        return models.Traffic(
            bytes_out=int(said["bytes_out"]),
            bytes_in=int(said["bytes_in"]),
            connections=int(said["connections"]),
            blocked=int(said["blocked"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("traffic", error) from error


def read_host(body: Json) -> str:
    host = body.get("host")
    if not isinstance(host, str) or not host:
        raise misshapen("a preview's host", "no text")
    return host


def read_snapshot(body: Json) -> models.SnapshotInfo:
    try:
        return models.SnapshotInfo(
            id=str(body["id"]),
            status=str(body["status"]),
            name=optional(str, body.get("name")),
            source_sandbox_id=optional(str, body.get("source_sandbox_id")),
            template=str(body["template"]),
            cpu=float(body["cpu"]),
            memory_mb=int(body["memory_mb"]),
            network=str(body["network"]),
            created_at=time(body["created_at"]),
            ready_at=optional(time, body.get("ready_at")),
            stored_bytes=optional(int, body.get("stored_bytes")),
            stopped_ms=optional(float, body.get("stopped_ms")),
            error=optional(str, body.get("error_message")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("a snapshot", error) from error


def read_snapshots(body: Json) -> list[models.SnapshotInfo]:
    rows = body.get("snapshots")
    if not isinstance(rows, list):
        raise misshapen("snapshots", "no list")
    return [read_snapshot(row) for row in rows]


def read_receipts(body: Json) -> list[models.DeletionReceipt]:
    try:
        return [
            models.DeletionReceipt(
                subject=str(row["subject"]),
                what=str(row["what"]),
                at=time(row["at"]),
                key_id=str(row["key_id"]),
                server_key_id=str(row["server_key_id"]),
            )
            for row in body["receipts"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("deletion receipts", error) from error


def read_expiry(body: Json) -> dt.datetime:
    try:
        return time(body["expires_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a lease", error) from error


def read_limits(body: Json) -> models.Limits:
    try:
        return models.Limits(
            plan=str(body["plan"]),
            max_concurrent=int(body["max_concurrent"]),
            sizes=tuple(
                models.SizeInfo(str(row["size"]), float(row["cpu"]), int(row["memory_mb"]), bool(row["allowed"]))
                for row in body.get("sizes") or ()
            ),
            max_timeout_seconds=optional(int, body.get("max_timeout_seconds")),
            max_snapshots=optional(int, body.get("max_snapshots")),
            max_named_snapshots=optional(int, body.get("max_named_snapshots")),
            max_fork=optional(int, body.get("max_fork")),
            default_egress_domains=names(body.get("default_egress_domains") or ()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("limits", error) from error
