"""What a visitor of a preview is told when there is nothing to see: few words, and nothing of the sandbox."""

from __future__ import annotations

import math

from starlette.responses import PlainTextResponse, Response

from terpd.api.errors import status_of
from terpd.model.errors import StateConflict, TerpError, Unavailable
from terpd.model.sandbox import FINAL

_TEXTS = {
    400: "This is no request that can be passed on.",
    401: "This preview is private. Open the link with its token, or ask the person who sent it for that.",
    404: "There is no such preview.",
    410: "The sandbox of this preview has ended.",
    502: "The sandbox gave no answer that makes sense. Does a server run on this port, and listen on 0.0.0.0?",
    503: "The sandbox of this preview does not run now. Try again later.",
    504: "The sandbox took too long to answer.",
}


def page(error: TerpError) -> Response:
    status = _status(error)
    headers = {"cache-control": "no-store"}
    if status == 503 and error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return _page(status, headers)


def bad_request() -> Response:
    return _page(400, {"cache-control": "no-store"})


def _status(error: TerpError) -> int:
    if isinstance(error, Unavailable):
        return 502  # nobody listens
    if isinstance(error, StateConflict):
        return 410 if error.fields.get("status") in FINAL else 503
    status = status_of(error)
    return status if status in _TEXTS else 503


def _page(status: int, headers: dict[str, str]) -> Response:
    return PlainTextResponse(_TEXTS[status] + "\n", status, {**headers, "x-content-type-options": "nosniff"})
