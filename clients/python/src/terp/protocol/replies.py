"""Replies read into values and errors. What has not the agreed shape is a BadReply; unknown members are ignored."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from terp import errors, models

Json = Mapping[str, Any]
_T = TypeVar("_T")

_BY_CODE: Mapping[str, type[errors.TerpError]] = {
    kind.code: kind
    for kind in (
        errors.InvalidRequest,
        errors.NotPermitted,
        errors.NotOffered,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NetworkBlocked,
        errors.NotFound,
        errors.SandboxNotFound,
        errors.TemplateNotFound,
        errors.FileNotFound,
        errors.ExecNotFound,
        errors.SnapshotNotFound,
        errors.Conflict,
        errors.StateConflict,
        errors.AlreadyExists,
        errors.IdempotencyMismatch,
        errors.LimitExceeded,
        errors.PlanLimit,
        errors.SnapshotCap,
        errors.TooLarge,
        errors.CapacityUnavailable,
        errors.Unavailable,
        errors.StorageFull,
        errors.SavedStateFault,
        errors.StateMismatch,
        errors.StateDamaged,
        errors.DeadlineExceeded,
        errors.ExecTimeout,
        errors.ExecKilled,
        errors.GuestFault,
        errors.Internal,
    )
}

_BY_STATUS: Mapping[int, type[errors.TerpError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    422: errors.InvalidRequest,
    429: errors.LimitExceeded,
    501: errors.NotOffered,
    502: errors.Unavailable,  # without a code of ours it comes from a proxy in between
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
    507: errors.StorageFull,
}


def read_json(status: int, headers: Mapping[str, str], content: bytes) -> Json:
    """
    Return the reply's object; an empty reply is `{}`.

    A failure after the status was sent comes as a 200 whose object has `code` and `detail`: it is raised like any.
    """
    if not 200 <= status < 300:
        raise read_error(status, headers, content)
    if not content.strip():
        return {}
    try:
        body = json.loads(content)
    except ValueError as error:
        raise _bad_reply(status, headers) from error
    if not isinstance(body, dict):
        raise _bad_reply(status, headers)
    if isinstance(body.get("code"), str) and isinstance(body.get("detail"), str):
        raise read_error(status, headers, content)
    return body


def read_error(status: int, headers: Mapping[str, str], content: bytes) -> errors.TerpError:
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = None
    body: Json = parsed if isinstance(parsed, dict) else {}
    code = body.get("code") if isinstance(body.get("code"), str) else None
    detail = str(body.get("detail") or body.get("message") or _status_text(status))
    known = {"code", "detail", "message", "retry_after"}
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status) or _fallback(status)
    return kind(
        detail,
        code=code,
        status=status,
        request_id=headers.get("x-request-id"),
        retry_after=_seconds(headers.get("retry-after")) or _seconds(body.get("retry_after")),
        fields={key: value for key, value in body.items() if key not in known},
    )


def error_by_code(code: str, detail: str, fields: Json) -> errors.TerpError:
    """Return the error that *code* names, for failures inside a stream or of one file among many."""
    return _BY_CODE.get(code, errors.TerpError)(detail, code=code, fields=fields)


def read_sandbox(body: Json) -> models.SandboxInfo:
    try:
        return models.SandboxInfo(
            id=str(body["id"]),
            status=str(body["status"]),
            template=str(body["template"]),
            size=_optional(str, body.get("size")),
            network=str(body["network"]),
            cpu=float(body["cpu"]),
            memory_mb=int(body["memory_mb"]),
            region=str(body.get("region") or ""),
            created_at=_time(body["created_at"]),
            expires_at=_time(body["expires_at"]),
            on_timeout=str(body.get("on_timeout") or "kill"),
            end_reason=_optional(str, body.get("end_reason")),
            metadata={str(key): str(value) for key, value in (body.get("metadata") or {}).items()},
            auto_resume=bool(body.get("auto_resume")),
            snapshot=_optional(str, body.get("snapshot")),
            paused_expires_at=_optional(_time, body.get("paused_expires_at")),
            stored_bytes=_optional(int, body.get("stored_bytes")),
            allow_domains=_optional(_names, body.get("allow_domains")),
            report_only=bool(body.get("report_only")),
            secrets=_names(body.get("secrets") or ()),
            preview_auth=bool(body.get("preview_auth")),
            preview_auth_token=_optional(str, body.get("preview_auth_token")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _misshapen("a sandbox", error) from error


def read_sandboxes(body: Json) -> list[models.SandboxInfo]:
    rows = body.get("sandboxes")
    if not isinstance(rows, list):
        raise _misshapen("several sandboxes", "no list")
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
        raise _misshapen("a pause", error) from error


def read_network(body: Json, info: models.SandboxInfo) -> models.SandboxInfo:
    """Return *info* with the policy that a change of it was answered with."""
    try:
        return dataclasses.replace(
            info,
            network=str(body["network"]),
            allow_domains=_optional(_names, body["allow_domains"]),
            report_only=bool(body["report_only"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misshapen("a network", error) from error


def read_egress(body: Json) -> tuple[list[models.Connection], str | None]:
    """Return the page's connections and the cursor of the next; None when it is the last."""
    try:
        connections = [
            models.Connection(
                id=str(row["id"]),
                at=_time(row["at"]),
                protocol=str(row["protocol"]),
                name=_optional(str, row["name"]),
                address=_optional(str, row["address"]),
                port=int(row["port"]),
                decision=str(row["decision"]),
                reason=str(row["reason"]),
                bytes_out=int(row["bytes_out"]),
                bytes_in=int(row["bytes_in"]),
                duration_ms=int(row["duration_ms"]),
                credential=_optional(str, row.get("credential")),
            )
            for row in body["connections"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _misshapen("connections", error) from error
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
        raise _misshapen("traffic", error) from error


def read_host(body: Json) -> str:
    host = body.get("host")
    if not isinstance(host, str) or not host:
        raise _misshapen("a preview's host", "no text")
    return host


def read_snapshot(body: Json) -> models.SnapshotInfo:
    try:
        return models.SnapshotInfo(
            id=str(body["id"]),
            status=str(body["status"]),
            name=_optional(str, body.get("name")),
            source_sandbox_id=_optional(str, body.get("source_sandbox_id")),
            template=str(body["template"]),
            cpu=float(body["cpu"]),
            memory_mb=int(body["memory_mb"]),
            network=str(body["network"]),
            created_at=_time(body["created_at"]),
            ready_at=_optional(_time, body.get("ready_at")),
            stored_bytes=_optional(int, body.get("stored_bytes")),
            stopped_ms=_optional(float, body.get("stopped_ms")),
            error=_optional(str, body.get("error_message")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _misshapen("a snapshot", error) from error


def read_snapshots(body: Json) -> list[models.SnapshotInfo]:
    rows = body.get("snapshots")
    if not isinstance(rows, list):
        raise _misshapen("snapshots", "no list")
    return [read_snapshot(row) for row in rows]


def read_receipts(body: Json) -> list[models.DeletionReceipt]:
    try:
        return [
            models.DeletionReceipt(
                subject=str(row["subject"]),
                what=str(row["what"]),
                at=_time(row["at"]),
                key_id=str(row["key_id"]),
                server_key_id=str(row["server_key_id"]),
            )
            for row in body["receipts"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _misshapen("deletion receipts", error) from error


def read_expiry(body: Json) -> dt.datetime:
    try:
        return _time(body["expires_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise _misshapen("a lease", error) from error


def read_limits(body: Json) -> models.Limits:
    try:
        return models.Limits(
            plan=str(body["plan"]),
            max_concurrent=int(body["max_concurrent"]),
            sizes=tuple(
                models.SizeInfo(str(row["size"]), float(row["cpu"]), int(row["memory_mb"]), bool(row["allowed"]))
                for row in body.get("sizes") or ()
            ),
            max_timeout_seconds=_optional(int, body.get("max_timeout_seconds")),
            max_snapshots=_optional(int, body.get("max_snapshots")),
            max_named_snapshots=_optional(int, body.get("max_named_snapshots")),
            max_fork=_optional(int, body.get("max_fork")),
            default_egress_domains=_names(body.get("default_egress_domains") or ()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misshapen("limits", error) from error


def read_directory(body: Json, path: str) -> list[models.FileInfo]:
    """
    Raises:
        InvalidRequest: It is a file.
    """
    if not body.get("is_dir"):
        raise errors.InvalidRequest(f"It is a file, no directory: {path}")
    try:
        return [
            models.FileInfo(
                name=str(row["name"]),
                path=posixpath.join(path, str(row["name"])),
                is_dir=bool(row["is_dir"]),
                size=int(row["size"]),
                mode=int(row["mode"]),
                modified_at=_time(row["modified_at"]),
                is_symlink=bool(row.get("is_symlink")),
            )
            for row in body["entries"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _misshapen("a directory", error) from error


def read_stat(body: Json, path: str) -> models.FileInfo | None:
    """Return None when there is no such file."""
    try:
        if not body["exists"]:
            return None
        return models.FileInfo(
            name=posixpath.basename(path.rstrip("/")),
            path=path,
            is_dir=bool(body["is_dir"]),
            size=int(body["size"]),
            mode=int(body["mode"]),
            modified_at=_time(body["modified_at"]),
            is_symlink=bool(body.get("is_symlink")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misshapen("a file", error) from error


def read_failures(body: Json) -> dict[str, errors.TerpError]:
    """Return what went wrong with each file that a batch did not write, by path."""
    try:
        return {
            str(row["path"]): error_by_code(
                str(row["error"]["code"]), str(row["error"].get("detail") or row["error"]["code"]), {}
            )
            for row in body["results"]
            if row.get("error")
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise _misshapen("the results of a batch", error) from error


def _optional(read: Callable[[Any], _T], value: Any) -> _T | None:
    return None if value is None else read(value)


def _names(rows: Any) -> tuple[str, ...]:
    if not isinstance(rows, list | tuple):
        raise TypeError(f"no list: {rows!r}")
    return tuple(str(row) for row in rows)


def _time(value: str) -> dt.datetime:
    """ISO 8601 with `Z` or an offset. Python 3.10 reads no `Z`, and 0, 3 or 6 digits of a second alone."""
    at = dt.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if at.tzinfo is None:
        raise ValueError(f"a time without a zone: {value}")
    return at.astimezone(dt.timezone.utc)


def _seconds(value: object) -> float | None:
    """Retry-After as a date is not used by this API."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return seconds if 0 < seconds < float("inf") else None


def _status_text(status: int) -> str:
    if 300 <= status < 400:
        return f"The server redirects (HTTP {status}); use the address it redirects to as the base URL"
    return f"The server answered HTTP {status} and no reason"


def _fallback(status: int) -> type[errors.TerpError]:
    if status >= 500:
        return errors.Internal
    return errors.InvalidRequest if status >= 400 else errors.BadReply


def _bad_reply(status: int, headers: Mapping[str, str]) -> errors.BadReply:
    return errors.BadReply(
        "What answered does not speak the Terp API; check the base URL",
        status=status,
        request_id=headers.get("x-request-id"),
    )


def _misshapen(what: str, why: object) -> errors.BadReply:
    return errors.BadReply(f"The server's description of {what} is not as agreed; is it older or newer? ({why!r})")
