"""What a tool is asked for, and by whom; and how it says that something went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from terpd.api.auth import caller_of
from terpd.control.keys import READ, WRITE, Caller
from terpd.model.errors import Forbidden, SandboxNotFound, TerpError, Unauthenticated
from terpd.model.ids import SandboxId, parse_sandbox_id


def reader(ctx: Context[Any, Any]) -> Caller:
    return _caller(ctx, READ)


def writer(ctx: Context[Any, Any]) -> Caller:
    return _caller(ctx, WRITE)


def sandbox_of(text: str) -> SandboxId:
    """Raises SandboxNotFound for what has not the form of an id."""
    sandbox_id = parse_sandbox_id(text)
    if sandbox_id is None:
        raise SandboxNotFound(f"There is no such sandbox: {text[:64]}; list_sandboxes shows those there are")
    return sandbox_id


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Within it an error of ours becomes a result that the model can read: what went wrong, and what to do."""
    try:
        yield
    except TerpError as error:
        again = "" if error.retry_after_s is None else f" Try again in {error.retry_after_s:.0f} s."
        raise ToolError(f"{error.detail} ({error.code}){again}") from error


def _caller(ctx: Context[Any, Any], scope: str) -> Caller:
    # The key of this very request: one that was revoked since the session began does not get here.
    request = ctx.request_context.request
    caller = None if request is None else caller_of(request.scope)
    if caller is None:
        raise Unauthenticated("An API key is needed: Authorization: Bearer terp_…")
    if scope not in caller.scopes:
        raise Forbidden(f"The API key lacks the scope: {scope}")
    return caller
