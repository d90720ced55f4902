"""
What every request passes, outermost first: Requests, BodyLimit, and then auth.Authenticate.

Plain ASGI: wrapping `send` costs microseconds, while a middleware that rebuilds requests and responses would cost a
task per request and buffer streams.
"""

from __future__ import annotations

import re
import time

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from terpd.api.auth import PRESIGNED, caller_of
from terpd.api.errors import error_response, internal_response
from terpd.api.metrics import Metrics
from terpd.model.errors import TerpError, TooLarge

# A file of 16 MiB in base64, with room for the rest of the document.
MAX_BODY_BYTES = 24 * 1024 * 1024
_STREAMED = re.compile(rf"/v1/sandboxes/[^/]+/files/(content|archive)|{PRESIGNED}[^/]+")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/healthz", "/readyz"})

_log = structlog.get_logger("terpd.access")


class Requests:
    """Gives each request its id, turns what was raised into an answer, and writes log line and figures."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499  # as nginx logs it; nobody is there to be told
        except TerpError as error:
            scope["terp.error"] = error
            if not status:
                await error_response(error)(scope, receive, send_with_id)
            # Otherwise the answer has begun: leaving it incomplete makes the server cut the connection, which is the
            # one way to tell the client that what it has is not all.
        except Exception:  # noqa: BLE001 - a bug: logged, and the server goes on
            _log.exception("request_crashed", request_id=request_id)
            if not status:
                await internal_response(request_id)(scope, receive, send_with_id)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - began)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.record(method, route, status, seconds)
        if route in _QUIET:
            return
        caller = caller_of(scope)
        error = scope.get("terp.error")
        _log.info(
            "request",
            request_id=request_id,
            method=method,
            path=_shown(scope["path"]),
            status=status,
            duration_ms=round(seconds * 1000, 2),
            **({} if caller is None else {"tenant": caller.tenant, "key_id": caller.key_id}),
            **({} if error is None else {"error": error.code, "context": error.context}),
        )


class BodyLimit:
    """Refuses bodies above 24 MiB, announced or not; a streamed file has no bound here."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] == "PUT" and _STREAMED.fullmatch(scope["path"])):
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._limit:
            raise self._too_large()
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._too_large()
            return message

        async def unless_exceeded(message: Message) -> None:
            # The framework makes an answer of its own of our error: that one is not sent.
            if received <= self._limit:
                await send(message)

        try:
            await self._app(scope, counted, unless_exceeded)
        except Exception as error:
            if received > self._limit:
                raise self._too_large() from error
            raise
        if received > self._limit:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body may have {self._limit} bytes at most; send large files through files/content or a presigned URL",
            fields={"limit": self._limit},
        )


def _shown(path: str) -> str:
    """Without the query, which names files and metadata, and without a token that opens a file."""
    return f"{PRESIGNED}…" if path.startswith(PRESIGNED) else path[:200]


def _announced(scope: Scope) -> int:
    """The body's length in bytes as the client gives it, 0 when it does not."""
    return max((int(v) for name, v in scope["headers"] if name == b"content-length" and v.isdigit()), default=0)


def _request_id(scope: Scope) -> str:
    """The client's own id if it is harmless in a log line, otherwise a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return f"req_{ULID()}"
