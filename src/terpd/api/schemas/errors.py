"""The body of every error, and how the routes' documentation names them."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from terpd.api.schemas.shape import AnswerBody


class ErrorBody(AnswerBody):
    """`code` is stable and for machines, `detail` is for people; some errors have further fields."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"detail": "There is no such sandbox: sbx_…", "code": "sandbox_not_found"}]},
    )

    detail: str
    code: str


_MEANINGS = {
    400: "The body cannot be read",
    401: "No valid API key",
    403: "The key lacks a scope, or the tenant's limit is reached (`plan_limit`)",
    404: "There is no such thing, or it is another tenant's",
    409: "Not in this state, and `status` says which it is; or there are too many snapshots (`snapshot_cap_reached`), "
    "or a saved state cannot be used here (`state_mismatch`, `state_damaged`), or a command that was given secrets "
    "runs (`secrets_in_use`)",
    410: "That part of the log is not kept any more; `first_offset` says from where it is",
    413: "Larger than allowed; `limit` says what is",
    422: "A field is wrong, or asks for what this server does not offer (`not_offered`)",
    429: "The guest has no memory or processes left",
    502: "The guest is lost or silent",
    503: "No room (`fleet_full_retry`) or a part is away (`unavailable`); nothing was done, see Retry-After",
    504: "It took too long (`exec_timeout`: the command did)",
    507: "The server's disk has no room for it; nothing was changed",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documented answers for *statuses*, and for those that every closed route has."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in sorted({401, 403, *statuses})}
