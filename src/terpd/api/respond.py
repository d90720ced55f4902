"""JSON answers, encoded once and in Rust; times as every client parses them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def timestamp(at: dt.datetime) -> str:
    """ISO 8601 in UTC with 6 digits of a second and 'Z'. Python 3.10's parser knows 0, 3 or 6 digits only."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def optional_timestamp(at: dt.datetime | None) -> str | None:
    return None if at is None else timestamp(at)
