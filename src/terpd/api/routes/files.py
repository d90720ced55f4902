"""Read and change a sandbox's files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from terpd.api.given import GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.files import (
    BatchBody,
    BatchResultBody,
    DirectoryBody,
    FileBody,
    MkdirBody,
    MoveBody,
    StatBody,
    WriteBody,
    WrittenBody,
    batch_object,
    read_object,
    stat_object,
)
from terpd.api.stream import ByteStream
from terpd.control.files import DEFAULT_MODE

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/files", tags=["files"])

FilePath = Annotated[str, Query(description="Absolute")]

_COMMON = (404, 409, 422, 502, 503, 504)


@router.get(
    "",
    operation_id="read_file",
    summary="Read a file or list a directory",
    response_model=FileBody | DirectoryBody,
    responses=errors(413, *_COMMON),
)
async def read(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, path: FilePath) -> Response:
    """A file of 16 MiB at most; larger ones stream through `files/content`."""
    return json_response(read_object(await services.files.read(caller.tenant, sandbox_id, path)))


@router.post(
    "",
    operation_id="write_file",
    summary="Write a file",
    status_code=204,
    response_class=Response,
    responses=errors(400, 413, 429, *_COMMON),
)
async def write(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: WriteBody) -> Response:
    """It is there whole or not at all."""
    await services.files.write(caller.tenant, sandbox_id, body.to_file())
    return Response(status_code=204)


@router.delete(
    "",
    operation_id="delete_file",
    summary="Delete a file",
    status_code=204,
    response_class=Response,
    responses=errors(*_COMMON),
)
async def delete(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, path: FilePath) -> Response:
    """Directories are refused."""
    await services.files.remove(caller.tenant, sandbox_id, path)
    return Response(status_code=204)


@router.post(
    "/batch",
    operation_id="write_files",
    summary="Write several files",
    response_model=BatchResultBody,
    responses=errors(400, 413, *_COMMON),
)
async def write_batch(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: BatchBody) -> Response:
    """A row that fails says why, and does not keep the others from being written."""
    outcomes = await services.files.write_batch(caller.tenant, sandbox_id, [row.to_file() for row in body.files])
    return json_response(batch_object(outcomes))


@router.post(
    "/mkdir",
    operation_id="make_directory",
    summary="Make a directory",
    status_code=204,
    response_class=Response,
    responses=errors(400, 413, 429, *_COMMON),
)
async def mkdir(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: MkdirBody) -> Response:
    await services.files.make_directory(caller.tenant, sandbox_id, body.path, parents=body.parents)
    return Response(status_code=204)


@router.post(
    "/move",
    operation_id="move_file",
    summary="Move a file or directory",
    status_code=204,
    response_class=Response,
    responses=errors(400, 413, 429, *_COMMON),
)
async def move(caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: MoveBody) -> Response:
    """A file at the destination is replaced."""
    await services.files.move(caller.tenant, sandbox_id, body.source, body.destination)
    return Response(status_code=204)


@router.get(
    "/stat",
    operation_id="stat_file",
    summary="Look a file up",
    response_model=StatBody,
    responses=errors(*_COMMON),
)
async def stat(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, path: FilePath) -> Response:
    """A path that is not there is 200 as well, with `exists` false."""
    return json_response(stat_object(path, await services.files.stat(caller.tenant, sandbox_id, path)))


@router.get(
    "/content",
    operation_id="download_file",
    summary="Stream a file",
    response_class=Response,
    responses={
        200: {
            "description": "The file's bytes. If reading fails midway, the connection is cut before its regular end",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        **errors(*_COMMON),
    },
)
async def download(caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, path: FilePath) -> Response:
    chunks = await services.files.stream(caller.tenant, sandbox_id, path)
    # What keeps the file from being read still has a status of its own.
    first = await anext(chunks, b"")
    return ByteStream(first, chunks)


@router.put(
    "/content",
    operation_id="upload_file",
    summary="Stream into a file",
    response_model=WrittenBody,
    responses=errors(413, 429, *_COMMON),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    caller: Writer,
    services: GivenServices,
    sandbox_id: GivenSandboxId,
    request: Request,
    path: FilePath,
    mode: Annotated[int, Query(description="Permission bits as a decimal number: 420 is 0o644")] = DEFAULT_MODE,
) -> Response:
    """The raw body, of any length. The file is there whole or, if the upload breaks off, as it was before."""
    size = await services.files.write_stream(caller.tenant, sandbox_id, path, request.stream(), mode)
    return json_response({"path": path, "size": size})
