"""
Which requests are for previews, by their Host, and what becomes of those.

It is the outermost layer: a preview's host never reaches a route of the API, and no other host a guest.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import h11
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from terpd.api.metrics import Metrics
from terpd.api.previews.exchange import Exchange, Upgrade
from terpd.api.previews.pages import bad_request, page
from terpd.api.previews.request import COOKIE, Visit, for_guest, location, visit
from terpd.control.previews import Previews
from terpd.model.errors import CapacityUnavailable, TerpError, Unauthenticated
from terpd.model.ids import SandboxId
from terpd.model.sandbox import Sandbox

MAX_VISITS = 256  # at once, of one sandbox: each takes two descriptors of the server's
UPGRADE = "terp.upgrade"  # in scope["extensions"]: the connection may become one of WebSocket
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = structlog.get_logger("terpd.access")


class PreviewHosts:
    def __init__(self, app: ASGIApp, previews: Previews, metrics: Metrics) -> None:
        self._app = app
        self._previews = previews
        self._metrics = metrics
        self._visits: Counter[SandboxId] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"] if scope["type"] == "http" else []
        labels = [self._previews.label(host.decode("latin-1")) for host in hosts]
        label = next((label for label in labels if label is not None), None)
        if label is None:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        error: TerpError | None = None
        try:
            if len(hosts) > 1:
                status = await _told(bad_request(), scope, receive, send)
            else:
                status = await self._visited(label, scope, receive, send)
        except TerpError as raised:
            error = raised
            status = await _told(page(raised), scope, receive, send)
        finally:
            self._record(scope, label, status, time.perf_counter() - began, error)

    async def _visited(self, label: str, scope: Scope, receive: Receive, send: Send) -> int:
        """Return the status that was answered."""
        upgrade: Upgrade | None = scope.get("extensions", {}).get(UPGRADE)
        seen = visit(scope, label)
        sandbox = await self._previews.find(label)
        token = next((token for token in seen.tokens if self._previews.admits(sandbox, token)), None)
        if not self._previews.admits(sandbox, token):
            raise Unauthenticated("This preview needs its token")
        if _to_be_redirected(sandbox, seen, token, scope) and upgrade is None:
            return await _told(_redirect(seen, scope), scope, receive, send)
        fields = for_guest(seen.fields, scope, upgrade=upgrade is not None)
        try:
            request = h11.Request(method=scope["method"].encode(), target=seen.target, headers=fields)
        except h11.LocalProtocolError:  # bytes that our parser lets through, and a guest's may not understand
            return await _told(bad_request(), scope, receive, send)
        with self._room(sandbox.id):
            preview = await self._previews.open(label, token)
            return await Exchange(request, receive, send, upgrade).run(preview.socket)

    @contextlib.contextmanager
    def _room(self, sandbox_id: SandboxId) -> Iterator[None]:
        if self._visits[sandbox_id] >= MAX_VISITS:
            raise CapacityUnavailable(f"Sandbox {sandbox_id} has {MAX_VISITS} visitors at once; try again")
        self._visits[sandbox_id] += 1
        try:
            yield
        finally:
            self._visits[sandbox_id] -= 1
            if not self._visits[sandbox_id]:
                del self._visits[sandbox_id]

    def _record(self, scope: Scope, label: str, status: int, seconds: float, error: TerpError | None) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.record(method, "preview", status, seconds)
        _log.info(
            "preview",
            method=method,
            preview=label,  # and no path: what a guest serves is its own business
            status=status,
            duration_ms=round(seconds * 1000, 2),
            **({} if error is None else {"error": error.code, "context": error.context}),
        )


def _to_be_redirected(sandbox: Sandbox, seen: Visit, token: str | None, scope: Scope) -> bool:
    """Whether a browser shows the token in its address; other methods would lose their body on the way."""
    shown = seen.query_token is not None and token == seen.query_token
    return sandbox.preview_auth and shown and scope["method"] in {"GET", "HEAD"}


def _redirect(seen: Visit, scope: Scope) -> Response:
    assert seen.query_token is not None
    secure = b"; Secure" if scope["scheme"] == "https" else b""
    answer = Response(status_code=302, headers={"cache-control": "no-store", "referrer-policy": "no-referrer"})
    answer.raw_headers += [
        (b"location", location(seen.target)),
        # Admitted, so it consists of what a token consists of.
        (b"set-cookie", COOKIE + b"=" + seen.query_token.encode() + b"; Path=/; HttpOnly; SameSite=Lax" + secure),
    ]
    return answer


async def _told(answer: Response, scope: Scope, receive: Receive, send: Send) -> int:
    await answer(scope, receive, send)
    return answer.status_code
