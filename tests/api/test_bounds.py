"""Requests that are too much or make no sense: refused in the shape of every error, and cheaply."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from support.api import RunningApi

from terpd.api.connection import MAX_HEAD_BYTES

SANDBOXES = "/v1/sandboxes"
FILES = f"{SANDBOXES}/sbx_01JG0000000000000000000000/files"


async def answered(api: RunningApi, request: bytes) -> tuple[int, dict[str, object]]:
    """Send *request* as it is, and return status and body of what comes until the connection is closed."""
    url = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(request)
    head, _, body = (await reader.read()).rpartition(b"\r\n\r\n")
    writer.close()
    return int(head.rpartition(b"HTTP/1.1 ")[2][:3]), json.loads(body)


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        (f"{FILES}/batch", {"files": [{}] * 100_000}, "files"),
        (SANDBOXES, {"template": "x", "env": {str(n): 1 for n in range(100_000)}}, "env"),
        (SANDBOXES, {"template": "x", "metadata": {str(n): 1 for n in range(100_000)}}, "metadata"),
        (SANDBOXES, {"template": "x", "allow_domains": [1] * 100_000}, "allow_domains"),
        (SANDBOXES, {str(n): 1 for n in range(100_000)}, "fields"),
        (f"{FILES}/batch", {"files": [{str(n): 1 for n in range(100_000)}]}, "fields"),
    ],
)
async def test_many_wrong_elements_are_counted_only(
    api: RunningApi, path: str, body: dict[str, object], word: str
) -> None:
    """413 by number; looking at each wrong element would take a thousand times their memory."""
    answer = await api.client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert word in answer.json()["detail"]
    assert "100000" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "word"),
    [
        (b"{", "application/json", 422, "not valid JSON"),
        (b"[" * 100_000, "application/json", 400, "body"),
        (b'{"timeout_seconds":' + b"9" * 5000 + b"}", "application/json", 400, "body"),
        (b'{"template":"x","timeout_seconds":NaN}', "application/json", 422, "timeout_seconds"),
        (b'{"template":"x","timeout_seconds":1e400}', "application/json", 422, "timeout_seconds"),
        (b'{"template":"x","\\ud800":1}', "application/json", 422, "unicode"),
        (b'{"template":"x","env":{"\\ud800":1}}', "application/json", 422, "env"),
        (b'{"template":"x","env":{"\\ud800":"x"}}', "application/json", 422, "surrogate"),
        (b'{"template":"\xff"}', "application/json", 400, "body"),
        (b"[]", "application/json", 422, "must be a JSON object"),
        (b'{"template":"x"}', "text/plain", 422, "Content-Type: application/json"),
        (b"template=x", "application/x-www-form-urlencoded", 422, "Content-Type: application/json"),
    ],
)
async def test_unreadable_bodies(api: RunningApi, content: bytes, content_type: str, status: int, word: str) -> None:
    """A 4xx with code and detail that says what would do."""
    answer = await api.client.post(SANDBOXES, content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, "invalid_request")
    assert word in answer.json()["detail"]


async def test_filter_has_64_keys_at_most(api: RunningApi) -> None:
    """More are no question to the database, which has a bound of its own."""
    few = await api.client.get(SANDBOXES, params={f"metadata[{n}]": "x" for n in range(64)})
    many = await api.client.get(SANDBOXES, params={f"metadata[{n}]": "x" for n in range(65)})
    assert few.json()["sandboxes"] == []
    assert (many.status_code, many.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ", id="header"),
        pytest.param(b"GET /", id="target"),
        pytest.param(
            b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-long: ", id="trailer"
        ),
    ],
)
async def test_endless_head_is_cut_off(api: RunningApi, beginning: bytes) -> None:
    """Nobody needs a key to send one, so the connection is closed once too much of it is held."""
    url = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    async with asyncio.timeout(20):
        # A reset that overtakes the answer is as good: who floods does not read.
        with contextlib.suppress(ConnectionError):
            for piece in [beginning, *([b"a" * 65536] * (64 * MAX_HEAD_BYTES // 65536))]:
                writer.write(piece)
                await writer.drain()
            while await reader.read(65536):
                pass
    writer.close()


async def test_long_body_is_no_long_head(api: RunningApi) -> None:
    """What makes progress has no bound of that kind."""
    sandbox = await api.create()
    pieces = [b"x" * 65536] * (8 * MAX_HEAD_BYTES // 65536)

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    answer = await api.client.put(
        f"{SANDBOXES}/{sandbox}/files/content", params={"path": "/workspace/a"}, content=body()
    )
    assert answer.json()["size"] == 8 * MAX_HEAD_BYTES


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\1\2\r\n\r\n",
        b"FOO / HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET /v1/sand\xffboxes HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_what_is_no_request(api: RunningApi, request_: bytes) -> None:
    """400 in the shape of every error, and the connection is closed."""
    status, body = await answered(api, request_)
    assert (status, body["code"]) == (400, "invalid_request")
    assert body["detail"]


async def test_broken_chunk_is_told(api: RunningApi) -> None:
    """400 also where the body breaks after the request was begun."""
    sandbox = await api.create()
    head = (
        f"PUT {SANDBOXES}/{sandbox}/files/content?path=/workspace/a HTTP/1.1\r\nhost: x\r\n"
        f"authorization: {api.client.headers['authorization']}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    status, body = await answered(api, head.encode() + b"ZZ\r\nhello\r\n")
    assert (status, body["code"]) == (400, "invalid_request")
    assert (await api.client.get(f"{SANDBOXES}/{sandbox}/files", params={"path": "/workspace/a"})).status_code == 404
