"""
`terp mcp`: the server's tools for a program that starts its tool servers itself and speaks to them over their stdin.

Each call is handed on to the server over HTTP, with its progress and its cancellation; the tools are described and run
there alone.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from terp.errors import InvalidRequest
from terp.protocol.settings import Settings, resolve_settings

if TYPE_CHECKING:
    from mcp import types
    from mcp.server import ServerRequestContext

PATH = "/api/sandboxes/mcp"
_CALL_TIMEOUT_S = 24 * 3600.0  # a command may take as long as the server lets it; who asked can cancel it
_CONNECT_TIMEOUT_S = 30.0


def mcp(
    base_url: Annotated[str | None, typer.Option(help="The server; else TERP_BASE_URL")] = None,
) -> None:
    """
    Serve Terp's tools to an agent over stdin and stdout (Model Context Protocol).

    Programs that speak HTTP need no such bridge: give them the server's address with /api/sandboxes/mcp, and the API
    key as a bearer token.

    Example: terp mcp --base-url https://terp.example.com

    An agent starts it, for instance after: claude mcp add terp -- terp mcp
    """
    settings = resolve_settings(None, base_url, os.environ)
    try:
        import mcp as _  # noqa: F401, PLC0415
    except ImportError as error:
        raise InvalidRequest("terp mcp needs more packages: pip install 'terp[cli,mcp]'") from error
    asyncio.run(_bridge(settings))


async def _bridge(settings: Settings) -> None:
    import httpx2  # noqa: PLC0415
    from mcp import Client  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415
    from mcp.server import Server  # noqa: PLC0415
    from mcp.server.stdio import stdio_server  # noqa: PLC0415

    http = httpx2.AsyncClient(
        headers={"authorization": f"Bearer {settings.api_key}"},
        timeout=httpx2.Timeout(_CALL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
        trust_env=not settings.is_loopback,
    )
    async with http, Client(streamable_http_client(f"{settings.base_url}{PATH}", http_client=http)) as client:

        async def call_tool(
            ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
        ) -> types.CallToolResult:
            return await client.call_tool(
                params.name,
                params.arguments,
                read_timeout_seconds=_CALL_TIMEOUT_S,
                progress_callback=ctx.session.report_progress,
            )

        async def list_tools(
            _: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
        ) -> types.ListToolsResult:
            return await client.list_tools(cursor=None if params is None else params.cursor)

        async def list_templates(
            _: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
        ) -> types.ListResourceTemplatesResult:
            return await client.list_resource_templates(cursor=None if params is None else params.cursor)

        async def list_resources(
            _: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
        ) -> types.ListResourcesResult:
            return await client.list_resources(cursor=None if params is None else params.cursor)

        async def read_resource(
            _: ServerRequestContext[Any, Any], params: types.ReadResourceRequestParams
        ) -> types.ReadResourceResult:
            return await client.read_resource(params.uri, cache_mode="bypass")

        server: Server[Any] = Server(
            "terp",
            instructions=client.instructions,
            on_call_tool=call_tool,
            on_list_tools=list_tools,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
        )
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
