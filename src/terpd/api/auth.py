"""
Who calls, and whether they may.

Authentication is a middleware, so that it comes before the body is read and parsed, and covers every path that is
not listed as open: a new route is closed until it says otherwise. Scopes are a dependency of each route.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.types import ASGIApp, Receive, Scope, Send

from terpd.control.keys import METRICS, READ, WRITE, Caller, Keys
from terpd.model.errors import Forbidden, Unauthenticated

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
PRESIGNED = "/v1/files/"  # what follows is a token, which grants all that is to be had there

_CALLER = "terp.caller"


class Authenticate:
    """ASGI middleware: puts the Caller into the scope, or raises Unauthenticated."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "http" and path not in OPEN_PATHS and not path.startswith(PRESIGNED):
            scope[_CALLER] = await self._keys.authenticate(_bearer(scope))
        await self._app(scope, receive, send)


class Require(SecurityBase):
    """Dependency: the Caller, if its key has *scope*."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.model = HTTPBearer(description="An API key, made with `terpd key create`")
        self.scheme_name = "api_key"

    async def __call__(self, request: Request) -> Caller:
        caller = request.scope.get(_CALLER)
        if not isinstance(caller, Caller):
            raise Unauthenticated("An API key is needed: Authorization: Bearer terp_…")
        if self.scope not in caller.scopes:
            raise Forbidden(f"The API key lacks the scope: {self.scope}")
        return caller


may_read = Require(READ)
may_write = Require(WRITE)
may_see_metrics = Require(METRICS)


def caller_of(scope: Scope) -> Caller | None:
    caller = scope.get(_CALLER)
    return caller if isinstance(caller, Caller) else None


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, secret = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer" and secret.strip():
                return str(secret.strip())
    raise Unauthenticated("An API key is needed: Authorization: Bearer terp_…")
