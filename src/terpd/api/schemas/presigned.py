"""Presigned files on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from terpd.api.respond import timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.presign import MAX_EXPIRES_S, MIN_EXPIRES_S, Grant


class PresignBody(RequestBody):
    path: str = Field(description="Absolute; for an upload below /workspace, /tmp or /persist")
    expires_in: int = Field(600, description=f"Seconds, {MIN_EXPIRES_S} to {MAX_EXPIRES_S}")


class PresignedBody(AnswerBody):
    url: str = Field(description="Needs no key, and works until it expires")
    method: Literal["GET", "PUT"]
    path: str
    expires_at: str


def presigned_object(url: str, grant: Grant) -> dict[str, Any]:
    return {"url": url, "method": grant.act.value, "path": grant.path, "expires_at": timestamp(grant.expires_at)}
