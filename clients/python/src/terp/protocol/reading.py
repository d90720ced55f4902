"""
A reply's status and JSON, and the errors that they tell of.

What has not the agreed shape is a BadReply; unknown members are ignored.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from terp import errors

Json = Mapping[str, Any]
T = TypeVar("T")

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
        errors.ContextNotFound,
        errors.VolumeNotFound,
        errors.WebhookNotFound,
        errors.LogDropped,
        errors.Conflict,
        errors.StateConflict,
        errors.AlreadyExists,
        errors.VolumeInUse,
        errors.SecretsInUse,
        errors.InterpreterUnavailable,
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
        errors.FollowTimeout,
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


def optional(read: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else read(value)


def names(rows: Any) -> tuple[str, ...]:
    if not isinstance(rows, list | tuple):
        raise TypeError(f"no list: {rows!r}")
    return tuple(str(row) for row in rows)


def time(value: str) -> dt.datetime:
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


def misshapen(what: str, why: object) -> errors.BadReply:
    return errors.BadReply(f"The server's description of {what} is not as agreed; is it older or newer? ({why!r})")
