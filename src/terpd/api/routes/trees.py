"""Whole trees of a sandbox's files: as tar streams, and what changes in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from terpd.api.given import GivenPace, GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.routes.files import FilePath
from terpd.api.schemas.errors import errors
from terpd.api.schemas.files import ExtractedBody
from terpd.api.sse import error_frame, frame, stream_events
from terpd.api.stream import ByteStream
from terpd.model.errors import TerpError
from terpd.model.guest import FileEvent

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/files", tags=["files"])

_COMMON = (404, 409, 422, 429, 502, 503, 504)
_TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/archive",
    operation_id="download_archive",
    summary="Stream a directory as a tar archive",
    response_class=Response,
    responses={
        200: {
            "description": "POSIX tar (pax): files, directories and symlinks, names relative to the directory. If"
            " reading fails midway, the connection is cut before its regular end",
            "content": _TAR,
        },
        **errors(*_COMMON),
    },
)
async def download(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, path: FilePath) -> Response:
    chunks = await services.trees.read(caller.tenant, sandbox_id, path)
    # What keeps it from being read still has a status of its own.
    first = await anext(chunks, b"")
    return ByteStream(first, chunks, media_type=b"application/x-tar")


@router.put(
    "/archive",
    operation_id="upload_archive",
    summary="Extract a tar archive into a directory",
    response_model=ExtractedBody,
    responses=errors(413, *_COMMON),
    openapi_extra={"requestBody": {"required": True, "content": _TAR}},
)
async def upload(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, request: Request, path: FilePath
) -> Response:
    """
    The raw body, of any length. Directories are made where they are missing, and files there are replaced.

    A name that leads out of the directory is refused. When it fails, what was made before stays.
    """
    made = await services.trees.write(caller.tenant, sandbox_id, path, request.stream())
    return json_response({"files": made.files, "bytes": made.size})


@router.get(
    "/watch",
    operation_id="watch_files",
    summary="Stream what changes among files",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events: `ready` first, then `created`, `modified`, `removed`, `moved` (with"
            " `moved_from`), or `overflow` where more happened than could be told",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **errors(*_COMMON),
    },
)
async def watch(
    caller: Reader,
    services: GivenServices,
    pace: GivenPace,
    sandbox_id: GivenSandboxId,
    path: FilePath,
    recursive: Annotated[bool, Query(description="Directories below as well, 8192 at most")] = False,  # noqa: FBT002
) -> Response:
    """It ends when what is watched is gone."""
    events = services.trees.watch(caller.tenant, sandbox_id, path, recursive=recursive)
    return await stream_events(events, _Frames(), pace)


class _Frames:
    def of(self, event: FileEvent) -> Iterator[bytes]:
        content: dict[str, Any] = {"kind": event.change.value, "path": event.path, "is_dir": event.is_dir}
        if event.moved_from is not None:
            content["moved_from"] = event.moved_from
        yield frame(content)

    def broken(self, error: TerpError) -> bytes:
        return error_frame(error)
