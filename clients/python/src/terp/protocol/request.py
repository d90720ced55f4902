"""
What every request has: method, target, body, and its own answer to "may it be sent twice?".

The retry rule needs to know no endpoint. The requests themselves are built in the other modules of this package.
"""

from __future__ import annotations

import base64
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from terp.errors import InvalidRequest

EVENTS = {"Accept": "text/event-stream, application/json"}


class Repeat(enum.Enum):
    """
    When a request may be sent again without asking the user.

    When the server is full, any may: nothing was created or changed.
    """

    IF_UNSENT = enum.auto()  # it acts anew each time
    IF_LOST = enum.auto()  # doing it twice is doing it once
    IF_LOST_OR_SILENT = enum.auto()  # the same, and a wish unheard is worth asking twice: create


@dataclass(frozen=True)
class Request:
    """`target` is path and query, percent-encoded. `body` goes out as JSON."""

    method: str
    target: str
    body: Mapping[str, object] | None = field(default=None, repr=False)  # may hold secrets
    headers: Mapping[str, str] = field(default_factory=dict)
    repeat: Repeat = Repeat.IF_UNSENT

    @property
    def content(self) -> bytes | None:
        """The body in ASCII: the escapes let any Python string through, for the server to judge."""
        return None if self.body is None else json.dumps(self.body).encode()


def sandbox_path(sandbox_id: str, rest: str = "") -> str:
    path = f"/v1/sandboxes/{segment(sandbox_id, 'sandbox', 'sbx')}"
    return f"{path}/{rest}" if rest else path


def segment(text: str, what: str, prefix: str) -> str:
    """Return an id as a part of a path."""
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The {what} id holds half of a surrogate pair") from error
    if text in ("", ".", ".."):  # a URL parser would take them for another address
        raise InvalidRequest(f"A {what} id looks like {prefix}_01J8ZQ4T9M5V3K7C2N6R1W0XYB, not: {text!r}")
    return quoted


def with_query(path: str, query: Mapping[str, str]) -> str:
    try:
        return f"{path}?{urlencode(query, quote_via=quote, safe='/')}"
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{' and '.join(query)} must be valid Unicode; one holds half a surrogate pair") from error


def volume_path(volume_id: str, rest: str = "") -> str:
    path = f"/v1/sandboxes/volumes/{segment(volume_id, 'volume', 'vol')}"
    return f"{path}/{rest}" if rest else path


def webhook_path(webhook_id: str, rest: str = "") -> str:
    path = f"/v1/sandboxes/webhooks/{segment(webhook_id, 'webhook', 'wh')}"
    return f"{path}/{rest}" if rest else path


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
