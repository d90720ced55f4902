"""Files by URLs that need no key: made for a while, and used by whoever has them."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response

from terpd.api.auth import PRESIGNED
from terpd.api.given import GivenSandboxId, GivenServices, Reader, Writer
from terpd.api.ranges import Span, parse_range
from terpd.api.respond import json_response
from terpd.api.schemas.errors import errors
from terpd.api.schemas.files import WrittenBody
from terpd.api.schemas.presigned import PresignBody, PresignedBody, presigned_object
from terpd.api.stream import ByteStream
from terpd.control.presign import Act, Grant
from terpd.control.services import Services
from terpd.model.errors import Unavailable
from terpd.model.guest import OpenFile
from terpd.model.ids import SandboxId, TenantId

router = APIRouter(tags=["files"])

Token = Annotated[str, Path(description="The end of a presigned URL")]

_COMMON = (401, 403, 404, 409, 422, 502, 503, 504)
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.post(
    "/v1/sandboxes/{sandbox_id}/files/presign-download",
    operation_id="presign_download",
    summary="Make a URL to download a file",
    response_model=PresignedBody,
    responses=errors(400, 404, 409, 413, 422, 503),
)
async def presign_download(
    caller: Reader, services: GivenServices, sandbox_id: GivenSandboxId, body: PresignBody, request: Request
) -> Response:
    """GET or HEAD of the URL needs no key, streams a file of any size and takes a Range, as often as you like."""
    return await _presign(services, request, caller.tenant, sandbox_id, body, Act.DOWNLOAD)


@router.post(
    "/v1/sandboxes/{sandbox_id}/files/presign-upload",
    operation_id="presign_upload",
    summary="Make a URL to upload a file",
    response_model=PresignedBody,
    responses=errors(400, 404, 409, 413, 422, 503),
)
async def presign_upload(
    caller: Writer, services: GivenServices, sandbox_id: GivenSandboxId, body: PresignBody, request: Request
) -> Response:
    """PUT the raw body to the URL, of any size and with a Content-Length, without a key. The file's mode is 0644."""
    return await _presign(services, request, caller.tenant, sandbox_id, body, Act.UPLOAD)


@router.get(
    PRESIGNED + "{token}",
    operation_id="download_presigned",
    summary="Download by a presigned URL",
    response_class=Response,
    responses={
        200: {"description": "The file's bytes. If reading fails midway, the connection is cut", **_BYTES},
        206: {"description": "The part of them that Range asks for", **_BYTES},
        416: {"description": "The file has nothing of what Range asks for"},
        **errors(*_COMMON),
    },
)
async def download(
    services: GivenServices,
    token: Token,
    byte_range: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range")] = None,
) -> Response:
    grant = services.presign.check(token, Act.DOWNLOAD)
    if if_range is not None:  # files have no validators here, so none can be the right one (RFC 9110, 13.1.5)
        byte_range = None
    opened, span = await _open(services, grant, byte_range)
    size = opened.info.size
    if span is None:
        headers = [*_headers(grant), (b"content-length", b"%d" % size)]
    elif span.start == span.end:
        await opened.chunks.aclose()
        return _Bare(416, [(b"content-range", b"bytes */%d" % size), (b"content-length", b"0")])
    else:
        part = (b"content-range", b"bytes %d-%d/%d" % (span.start, span.end - 1, size))
        headers = [*_headers(grant), part, (b"content-length", b"%d" % (span.end - span.start))]
    # What keeps the file from being read still has a status of its own.
    first = await anext(opened.chunks, b"")
    return ByteStream(first, opened.chunks, status=200 if span is None else 206, headers=headers)


@router.head(PRESIGNED + "{token}", include_in_schema=False)
async def look(services: GivenServices, token: Token) -> Response:
    grant = services.presign.check(token, Act.DOWNLOAD)
    opened = await services.presign.open(grant, limit=1)
    await anext(opened.chunks, b"")
    await opened.chunks.aclose()
    return _Bare(200, [*_headers(grant), (b"content-length", b"%d" % opened.info.size)])


@router.put(
    PRESIGNED + "{token}",
    operation_id="upload_presigned",
    summary="Upload by a presigned URL",
    response_model=WrittenBody,
    responses={411: {"description": "Content-Length is missing"}, **errors(413, 429, *_COMMON)},
    openapi_extra={"requestBody": {"required": True, **_BYTES}},
)
async def upload(services: GivenServices, token: Token, request: Request) -> Response:
    """The file is there whole or, if the upload breaks off, as it was before."""
    grant = services.presign.check(token, Act.UPLOAD)
    if "content-length" not in request.headers:
        raise HTTPException(411, "Send the body's length as Content-Length")
    size = await services.presign.write(grant, request.stream())
    return json_response({"path": grant.path, "size": size})


class _Bare(Response):
    """Headers as they are, and no body: the answer to HEAD has the length of the one that GET would have."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(status_code=status)
        self.raw_headers = headers


async def _presign(
    services: Services, request: Request, tenant: TenantId, sandbox_id: SandboxId, body: PresignBody, act: Act
) -> Response:
    token, grant = await services.presign.grant(tenant, sandbox_id, body.path, act, expires_in=body.expires_in)
    base = services.presign.public_url or str(request.base_url).rstrip("/")
    return json_response(presigned_object(f"{base}{PRESIGNED}{token}", grant))


async def _open(services: Services, grant: Grant, byte_range: str | None) -> tuple[OpenFile, Span | None]:
    """The file, from where it is asked for, and what that is; None is all of it."""
    if byte_range is None:
        return await services.presign.open(grant), None
    found = await services.presign.open(grant, limit=1)
    span = parse_range(byte_range, found.info.size)
    if span is not None and span.start == span.end:
        return found, span
    await found.chunks.aclose()
    if span is None:
        return await services.presign.open(grant), None
    opened = await services.presign.open(grant, offset=span.start, limit=span.end - span.start)
    if opened.info != found.info:
        await opened.chunks.aclose()
        raise Unavailable("The file is being changed; try again")
    return opened, span


def _headers(grant: Grant) -> list[tuple[bytes, bytes]]:
    name = grant.path.rpartition("/")[2]
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return [
        (b"content-disposition", disposition.encode("ascii")),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", b"no-store"),
    ]
