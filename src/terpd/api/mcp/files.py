"""Tools for files, and files as resources."""

from __future__ import annotations

import base64
import binascii
import posixpath
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError
from mcp.server.mcpserver.resources.templates import ResourceSecurity
from mcp.types import ToolAnnotations
from pydantic import Field

from terpd.api.mcp.asked import reader, sandbox_of, told, writer
from terpd.api.mcp.lifecycle import SandboxIdText
from terpd.api.mcp.shown import DirectoryShown, EntryShown, FileShown, WrittenShown
from terpd.control.files import DEFAULT_MODE, Directory, FileToWrite
from terpd.control.services import Services
from terpd.model.errors import InvalidRequest, TerpError

MAX_READ_BYTES = 256 * 1024
MAX_ENTRIES = 500

_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
_PathText = Annotated[str, Field(description="Absolute, e.g. /workspace/main.py")]


def register(server: MCPServer[Any], services: Services) -> None:
    @server.tool(title="Write a file", annotations=_WRITES)
    async def write_file(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        path: _PathText,
        content: str,
        encoding: Annotated[Literal["utf-8", "base64"], Field(description="Of content")] = "utf-8",
    ) -> WrittenShown:
        """Write a file of up to 16 MiB under /workspace, /tmp or /persist, replacing one that is there."""
        with told():
            file = FileToWrite(path, _bytes_of(content, encoding), DEFAULT_MODE)
            written = await services.files.write(writer(ctx).tenant, sandbox_of(sandbox_id), file)
            return WrittenShown(path=path, bytes_written=written)

    @server.tool(title="Read a file", annotations=_LOOKS)
    async def read_file(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        path: _PathText,
        offset: Annotated[int, Field(description="In bytes", ge=0)] = 0,
        limit: Annotated[int, Field(description="In bytes", ge=1, le=MAX_READ_BYTES)] = 64 * 1024,
    ) -> FileShown:
        """Read a part of a file: text as it is, anything else in base64."""
        with told():
            content = await services.files.read(reader(ctx).tenant, sandbox_of(sandbox_id), path)
            if isinstance(content, Directory):
                raise InvalidRequest(f"{path} is a directory; use list_files")
            return _file_shown(path, content, offset, limit)

    @server.tool(title="List a directory", annotations=_LOOKS)
    async def list_files(
        ctx: Context[Any, Any], sandbox_id: SandboxIdText, path: _PathText = "/workspace"
    ) -> DirectoryShown:
        """Show what is in a directory, by name."""
        with told():
            found = await services.files.read(reader(ctx).tenant, sandbox_of(sandbox_id), path)
            if not isinstance(found, Directory):
                raise InvalidRequest(f"{path} is a file; use read_file")
            entries = sorted(found.entries, key=lambda entry: entry.name)
            shown = [
                EntryShown(name=e.name, is_dir=e.is_dir, size=e.size, modified_at=e.modified_at)
                for e in entries[:MAX_ENTRIES]
            ]
            return DirectoryShown(path=path, entries=shown, more=len(entries) - len(shown))

    # What the path names is decided in the guest, whose files these are: no name is dangerous to this host.
    @server.resource(
        "terp://{sandbox_id}/{+path}",
        name="file",
        title="A file of a sandbox",
        description="E.g. terp://sbx_01J…/workspace/result.csv",
        mime_type="application/octet-stream",
        security=ResourceSecurity(exempt_params={"path"}),
    )
    async def file(ctx: Context[Any, Any], sandbox_id: str, path: str) -> str | bytes:
        try:
            path = posixpath.join("/", path)
            content = await services.files.read(reader(ctx).tenant, sandbox_of(sandbox_id), path)
        except TerpError as error:
            raise ResourceError(f"{error.detail} ({error.code})") from error
        if isinstance(content, Directory):
            return "\n".join(sorted(f"{entry.name}{'/' if entry.is_dir else ''}" for entry in content.entries))
        try:
            return content.decode()
        except UnicodeDecodeError:
            return content


def _bytes_of(content: str, encoding: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidRequest(f"content is not valid {encoding}") from error


def _file_shown(path: str, content: bytes, offset: int, limit: int) -> FileShown:
    piece = content[offset : offset + limit]
    end = offset + len(piece)
    encoding: Literal["utf-8", "base64"] = "utf-8"
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        whole = piece[: error.start]
        # A character that the limit cut in two is left for the next read; anything else is no text.
        if end < len(content) and error.reason == "unexpected end of data" and whole:
            text, end = whole.decode(), offset + len(whole)
        else:
            text, encoding = base64.b64encode(piece).decode(), "base64"
    return FileShown(
        path=path,
        encoding=encoding,
        content=text,
        size=len(content),
        next_offset=end if end < len(content) else None,
    )
