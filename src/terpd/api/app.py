"""The application: routes, middleware and what they are given. Nothing is global; a process may hold several."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Route

from terpd.api import errors
from terpd.api.auth import Authenticate
from terpd.api.mcp.endpoint import PATH as MCP_PATH
from terpd.api.mcp.endpoint import McpEndpoint
from terpd.api.metrics import Metrics
from terpd.api.middleware import BodyLimit, Requests
from terpd.api.pace import Pace
from terpd.api.previews.hosts import PreviewHosts
from terpd.api.routes import code as code_routes
from terpd.api.routes import (
    commands,
    environment,
    files,
    fork,
    health,
    limits,
    network,
    pause,
    presigned,
    pty,
    receipts,
    sandboxes,
    snapshots,
    trees,
    usage,
    volumes,
    webhooks,
)
from terpd.api.routes import exec as exec_routes
from terpd.control.services import Services

API_VERSION = "1.0.0"  # of the HTTP API, not of the product


def describe_app() -> FastAPI:
    """The routes alone, enough for their description in openapi/."""
    app = FastAPI(
        title="Terp",
        version=API_VERSION,
        description="Sandboxes for AI agents: a real virtual machine from one call.",
        docs_url=None,  # the pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # clients do not follow redirects
    )
    app.include_router(limits.router)  # /v1/sandboxes/limits and …/snapshots go before /v1/sandboxes/{sandbox_id}
    app.include_router(snapshots.router)
    app.include_router(volumes.router)
    app.include_router(webhooks.router)
    app.include_router(sandboxes.router)
    app.include_router(pause.router)
    app.include_router(fork.router)
    app.include_router(exec_routes.router)
    app.include_router(code_routes.router)
    app.include_router(commands.router)
    app.include_router(pty.router)
    app.include_router(environment.router)
    app.include_router(files.router)
    app.include_router(presigned.router)
    app.include_router(trees.router)
    app.include_router(network.router)
    app.include_router(receipts.router)
    app.include_router(usage.router)
    app.include_router(health.router)
    return app


def create_app(services: Services, *, pace: Pace | None = None) -> FastAPI:
    """
    Return the ASGI application that serves *services*. Serve it inside of `services.running()`.

    *pace* is for tests; the default is what clients are built for. Close `app.state.mcp` when it is served no more.
    """
    app = describe_app()
    app.state.services = services
    app.state.pace = pace or Pace()
    app.state.metrics = Metrics()
    app.state.mcp = McpEndpoint(services)
    app.router.routes.append(Route(MCP_PATH, app.state.mcp))
    errors.install(app)
    app.add_middleware(Authenticate, keys=services.keys)  # the last one added is the outermost
    app.add_middleware(BodyLimit)
    app.add_middleware(Requests, metrics=app.state.metrics)
    app.add_middleware(PreviewHosts, previews=services.previews, metrics=app.state.metrics)
    return app
