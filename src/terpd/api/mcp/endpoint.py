"""
The protocol's one path: streamable HTTP, behind the same API keys as every other.

The protocol's library takes a second or two of processor time to load. It is loaded by the first request that needs it,
in a thread, so that a server nobody uses it of neither starts later nor is larger.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from terpd.api.auth import caller_of
from terpd.api.middleware import MAX_BODY_BYTES
from terpd.control.services import Services
from terpd.model.errors import LimitExceeded, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/api/sandboxes/mcp"
MAX_SESSIONS = 1000
MAX_OF_TENANT = 100  # so that no tenant takes all
IDLE_S = 30 * 60.0


class McpEndpoint:
    """ASGI application. Close it before the server ends: its streams end then."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._starting: asyncio.Future[StreamableHTTPSessionManager] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = caller_of(scope)
        if caller is None:
            raise Unauthenticated("An API key is needed: Authorization: Bearer terp_…")
        manager = await self._manager()
        if not any(name == b"mcp-session-id" for name, _ in scope["headers"]):
            owners = manager._session_owners.values()  # noqa: SLF001 - it counts all together only
            if sum(owner["subject"] == caller.tenant for owner in owners) >= MAX_OF_TENANT:
                raise LimitExceeded(f"{MAX_OF_TENANT} sessions are open; end one, or let it idle for half an hour")
        from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser  # noqa: PLC0415
        from mcp.server.auth.provider import AccessToken  # noqa: PLC0415

        # A session belongs to the key that it was opened with; to others it does not exist.
        token = AccessToken(token="", client_id=caller.key_id, scopes=sorted(caller.scopes), subject=caller.tenant)
        await manager.handle_request({**scope, "user": AuthenticatedUser(token)}, receive, send)

    async def aclose(self) -> None:
        self._closing.set()
        if self._serving is not None:
            await asyncio.wait([self._serving])

    async def _manager(self) -> StreamableHTTPSessionManager:
        if self._closing.is_set():
            raise Unavailable("The server is stopping; try again")
        if self._starting is None or (self._starting.done() and self._starting.exception()):
            self._starting = asyncio.get_running_loop().create_future()
            self._serving = asyncio.create_task(self._serve(self._starting), name="mcp")
        return await asyncio.shield(self._starting)

    async def _serve(self, started: asyncio.Future[StreamableHTTPSessionManager]) -> None:
        """Hold the sessions, from the first request to the end: they must be let go by the task that took them."""
        try:
            manager = await asyncio.to_thread(_load, self._services)
            async with manager.run():
                started.set_result(manager)
                await self._closing.wait()
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            else:
                raise


def _load(services: Services) -> StreamableHTTPSessionManager:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager  # noqa: PLC0415

    from terpd.api.mcp.server import build_server  # noqa: PLC0415

    server = build_server(services)
    # The library has no other way to a manager with these bounds than through the application it would make.
    return StreamableHTTPSessionManager(
        server._lowlevel_server,  # noqa: SLF001
        session_idle_timeout=IDLE_S,
        max_sessions=MAX_SESSIONS,
        max_request_body_size=MAX_BODY_BYTES,
    )
