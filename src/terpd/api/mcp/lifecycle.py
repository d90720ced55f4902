"""Tools for the life of a sandbox, and for what it reaches and is reached by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations
from pydantic import Field

from terpd.api.mcp.asked import reader, sandbox_of, told, writer
from terpd.api.mcp.shown import (
    ConnectionShown,
    EgressShown,
    ForkedShown,
    PausedShown,
    PreviewShown,
    SandboxesShown,
    SandboxShown,
    TerminatedShown,
)
from terpd.control.create import CreateRequest
from terpd.control.fork import ForkRequest
from terpd.control.services import Services
from terpd.model.network import Decision, EgressFilter
from terpd.model.ports import SandboxFilter
from terpd.model.sandbox import Network, OnTimeout, Status

SandboxIdText = Annotated[str, Field(description="Of create_sandbox or list_sandboxes: sbx_…")]

_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_ENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_PREFERRED = ("code-interpreter", "python-3.12", "python-3.12-bare", "debian-12")
_PAGE = 50


def register(server: MCPServer[Any], services: Services) -> None:
    _register_beginnings(server, services)
    _register_changes(server, services)
    _register_network(server, services)


def _register_beginnings(server: MCPServer[Any], services: Services) -> None:
    @server.tool(title="Create a sandbox", annotations=_ADDS)
    async def create_sandbox(
        ctx: Context[Any, Any],
        template: Annotated[
            str | None,
            Field(description="python-3.12, node-22, debian-12, code-interpreter …; if left out, one with Python"),
        ] = None,
        size: Annotated[str, Field(description="small (1 vCPU, 1 GB), medium or large")] = "small",
        network: Annotated[Network, Field(description="What it may reach")] = Network.OFF,
        allow_domains: Annotated[
            list[str] | None, Field(description="With restricted: exactly these names and those below them")
        ] = None,
        timeout_seconds: Annotated[int, Field(description="Until it ends by itself", ge=10)] = 600,
        on_timeout: Annotated[OnTimeout, Field(description="What happens then")] = OnTimeout.KILL,
        auto_resume: Annotated[bool, Field(description="While paused, any use of it resumes it")] = False,  # noqa: FBT002
        env: Annotated[dict[str, str] | None, Field(description="Environment of every command")] = None,
        metadata: Annotated[dict[str, str] | None, Field(description="Labels, to find it again")] = None,
        volume: Annotated[
            str | None, Field(description="A volume's name; mounted at /persist, kept afterwards")
        ] = None,
        snapshot: Annotated[str | None, Field(description="Start from this snapshot instead of a template")] = None,
    ) -> SandboxShown:
        """Start a new virtual machine and return it running. Takes well under a second to a few seconds."""
        with told():
            caller = writer(ctx)
            if template is None and snapshot is None:
                built = {each.name for each in await services.lookup.templates()}
                template = next((name for name in _PREFERRED if name in built), _PREFERRED[1])
            request = CreateRequest(
                template=template,
                snapshot=snapshot,
                size=size,
                network=network,
                allow_domains=allow_domains,
                timeout_s=timeout_seconds,
                on_timeout=on_timeout,
                auto_resume=auto_resume,
                preview_auth=True,
                env=env or {},
                metadata=metadata or {},
                volume=volume,
            )
            planned = await services.create.plan(caller.tenant, request)
            return SandboxShown.of(await services.create(planned))

    @server.tool(title="List sandboxes", annotations=_LOOKS)
    async def list_sandboxes(
        ctx: Context[Any, Any],
        status: Annotated[Status | None, Field(description="Only those")] = None,
        metadata: Annotated[dict[str, str] | None, Field(description="Only those with all of these labels")] = None,
    ) -> SandboxesShown:
        """Show the newest sandboxes, ended ones included."""
        with told():
            where = SandboxFilter(status=status, metadata=metadata or {}, limit=_PAGE)
            page = await services.lookup.sandboxes(reader(ctx).tenant, where)
            shown = [SandboxShown.of(sandbox) for sandbox in page.sandboxes]
            return SandboxesShown(sandboxes=shown, more=page.next_before is not None)


def _register_changes(server: MCPServer[Any], services: Services) -> None:
    @server.tool(title="Pause a sandbox", annotations=_CHANGES)
    async def pause_sandbox(ctx: Context[Any, Any], sandbox_id: SandboxIdText) -> PausedShown:
        """Save memory, processes and files and free the machine. Background commands go on after resume_sandbox."""
        with told():
            caller, identified = writer(ctx), sandbox_of(sandbox_id)
            saved = await services.pause(caller.tenant, identified)
            return PausedShown(id=identified, stored_bytes=saved.stored_bytes)

    @server.tool(title="Resume a sandbox", annotations=_CHANGES)
    async def resume_sandbox(ctx: Context[Any, Any], sandbox_id: SandboxIdText) -> SandboxShown:
        """Let a paused sandbox go on exactly where it was, with a new lease of the same length."""
        with told():
            return SandboxShown.of(await services.resume(writer(ctx).tenant, sandbox_of(sandbox_id)))

    @server.tool(title="Fork a sandbox", annotations=_ADDS)
    async def fork_sandbox(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        count: Annotated[int, Field(description="How many children", ge=1)] = 1,
        timeout_seconds: Annotated[int, Field(description="Until they end by themselves", ge=10)] = 600,
    ) -> ForkedShown:
        """Start others that have its memory, processes and files of this moment; the source runs on. All or none."""
        with told():
            request = ForkRequest(count=count, timeout_s=timeout_seconds)
            forked = await services.fork(writer(ctx).tenant, sandbox_of(sandbox_id), request)
            return ForkedShown(sandboxes=[SandboxShown.of(child) for child in forked.children])

    @server.tool(title="Terminate a sandbox", annotations=_ENDS)
    async def terminate_sandbox(ctx: Context[Any, Any], sandbox_id: SandboxIdText) -> TerminatedShown:
        """End it for good: processes, memory and files are gone. What is on a volume stays."""
        with told():
            caller, identified = writer(ctx), sandbox_of(sandbox_id)
            await services.terminate(caller.tenant, identified)
            return TerminatedShown(id=identified)


def _register_network(server: MCPServer[Any], services: Services) -> None:
    @server.tool(title="Get the URL of a port", annotations=_LOOKS)
    async def get_preview_url(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        port: Annotated[int, Field(description="That a program in the sandbox listens on", ge=1, le=65535)],
    ) -> PreviewShown:
        """Return the address under which a web server of the sandbox is reached from outside. Not with network off."""
        with told():
            caller, identified = reader(ctx), sandbox_of(sandbox_id)
            host = await services.previews.host(caller.tenant, identified, port)
            sandbox = await services.lookup.sandbox(caller.tenant, identified)
            request = ctx.request_context.request
            assert request is not None  # it has a caller
            # As the caller reached this server: scheme and port are those of the previews, too.
            url = request.url.replace(hostname=host, path="/", query="")
            token = services.previews.token(sandbox)
            return PreviewShown(url=str(url if token is None else url.include_query_params(terp_preview_token=token)))

    @server.tool(title="Show connections", annotations=_LOOKS)
    async def egress_log(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        decision: Annotated[
            Literal["allowed", "reported", "blocked", "failed"] | None, Field(description="Only those")
        ] = None,
        limit: Annotated[int, Field(ge=1, le=200)] = 50,
    ) -> EgressShown:
        """Show what the sandbox connected to, or tried to, and why it was let through or blocked."""
        with told():
            where = EgressFilter(decision=None if decision is None else Decision(decision), limit=limit)
            records = await services.egress.list(reader(ctx).tenant, sandbox_of(sandbox_id), where)
            return EgressShown(connections=[ConnectionShown.of(record) for record in records])
