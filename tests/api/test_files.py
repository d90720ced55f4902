"""Files over HTTP: in JSON documents and as streams."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx
import pytest
from support.api import RunningApi

from terpd.model.errors import GuestFault
from terpd.model.ids import SandboxId

MIB = 1024 * 1024


def url(sandbox_id: str, rest: str = "") -> str:
    return f"/v1/sandboxes/{sandbox_id}/files{rest}"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_write_and_read_back(api: RunningApi) -> None:
    """Any bytes, the empty file too, into directories that do not exist yet."""
    sandbox_id = await api.create()
    for content in (b"", bytes(range(256)) * 1000):
        body = {"path": "/workspace/a/b.bin", "content": b64(content), "mode": 0o600}
        assert (await api.client.post(url(sandbox_id), json=body)).status_code == 204
        answer = await api.client.get(url(sandbox_id), params={"path": "/workspace/a/b.bin"})
        assert answer.json() == {"is_dir": False, "content": b64(content)}


async def test_directory_listing_and_stat(api: RunningApi) -> None:
    """Every field that clients require is there; an absent path is a 200 with exists false."""
    sandbox_id = await api.create()
    await api.client.post(url(sandbox_id), json={"path": "/workspace/x", "content": b64(b"12")})
    listing = (await api.client.get(url(sandbox_id), params={"path": "/workspace"})).json()
    (entry,) = listing["entries"]
    assert (entry["name"], entry["is_dir"], entry["size"], entry["mode"]) == ("x", False, 2, 0o644)
    assert entry["modified_at"].endswith("Z")
    stat = (await api.client.get(url(sandbox_id, "/stat"), params={"path": "/workspace/x"})).json()
    assert (stat["exists"], stat["size"], stat["path"]) == (True, 2, "/workspace/x")
    absent = (await api.client.get(url(sandbox_id, "/stat"), params={"path": "/nope"})).json()
    assert (absent["exists"], absent["is_dir"], absent["mode"], absent["modified_at"]) == (False, False, None, None)


async def test_mkdir_move_delete(api: RunningApi) -> None:
    """Mkdir with parents is repeatable and without them is not; delete refuses directories."""
    sandbox_id = await api.create()
    for parents, status in ((True, 204), (True, 204), (False, 409)):
        body = {"path": "/workspace/d/e", "parents": parents}
        assert (await api.client.post(url(sandbox_id, "/mkdir"), json=body)).status_code == status
    await api.client.post(url(sandbox_id), json={"path": "/workspace/d/f", "content": b64(b"1")})
    body = {"source": "/workspace/d/f", "destination": "/workspace/g/h"}
    assert (await api.client.post(url(sandbox_id, "/move"), json=body)).status_code == 204
    assert (await api.client.delete(url(sandbox_id), params={"path": "/workspace/d"})).status_code == 422
    assert (await api.client.delete(url(sandbox_id), params={"path": "/workspace/g/h"})).status_code == 204
    gone = await api.client.delete(url(sandbox_id), params={"path": "/workspace/g/h"})
    assert (gone.status_code, gone.json()["code"]) == (404, "file_not_found")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"path": "/etc/passwd", "content": ""}, 422, "not_permitted"),
        ({"path": "/workspace/../etc/x", "content": ""}, 422, "not_permitted"),
        ({"path": "/workspace", "content": ""}, 422, "not_permitted"),
        ({"path": "/workspacex/a", "content": ""}, 422, "not_permitted"),
        ({"path": "a", "content": ""}, 422, "invalid_request"),
        ({"path": "/tmp/\0", "content": ""}, 422, "invalid_request"),
        ({"path": "/tmp/" + "x" * 5000, "content": ""}, 422, "invalid_request"),
        ({"path": "/tmp/a", "content": "no base64!"}, 422, "invalid_request"),
        ({"path": "/tmp/a", "content": "", "mode": 0o10000}, 422, "invalid_request"),
        ({"path": "/tmp/a", "content": b64(b"x" * (16 * MIB + 1))}, 413, "too_large"),
    ],
)
async def test_impossible_writes_say_why(api: RunningApi, body: dict[str, object], status: int, code: str) -> None:
    """Alone with a status, in a batch as the row's error that leaves the other rows alone."""
    sandbox_id = await api.create()
    answer = await api.client.post(url(sandbox_id), json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    rows = [body, {"path": "/tmp/fine", "content": b64(b"ok")}]
    results = (await api.client.post(url(sandbox_id, "/batch"), json={"files": rows})).json()["results"]
    assert results[0]["error"]["code"] == code
    assert results[1] == {"path": "/tmp/fine", "bytes_written": 2, "error": None}


async def test_batch_has_64_rows_at_most(api: RunningApi) -> None:
    """413 for more, and nothing is written."""
    sandbox_id = await api.create()
    rows = [{"path": f"/tmp/{n}", "content": ""} for n in range(65)]
    assert (await api.client.post(url(sandbox_id, "/batch"), json={"files": rows})).status_code == 413
    assert not api.node.machines[SandboxId(sandbox_id)].files


async def test_largest_file_in_a_document(api: RunningApi) -> None:
    """16 MiB fit both ways; one byte more is told to stream."""
    sandbox_id = await api.create()
    body = {"path": "/tmp/big", "content": b64(b"x" * 16 * MIB)}
    assert (await api.client.post(url(sandbox_id), json=body)).status_code == 204
    assert (await api.client.get(url(sandbox_id), params={"path": "/tmp/big"})).status_code == 200
    api.node.machines[SandboxId(sandbox_id)].files["/tmp/big"].content += b"x"
    answer = await api.client.get(url(sandbox_id), params={"path": "/tmp/big"})
    assert answer.status_code == 413
    assert "files/content" in answer.json()["detail"]


async def test_streams_have_no_bound(api: RunningApi) -> None:
    """More than any document holds goes up without an announced length and comes down in pieces."""
    sandbox_id = await api.create()

    async def pieces() -> AsyncIterator[bytes]:
        for n in range(40):
            yield bytes([n]) * MIB

    answer = await api.client.put(
        url(sandbox_id, "/content"), params={"path": "/workspace/big", "mode": 0o755}, content=pieces()
    )
    assert answer.json() == {"path": "/workspace/big", "size": 40 * MIB}
    assert api.node.machines[SandboxId(sandbox_id)].files["/workspace/big"].mode == 0o755
    down = await api.client.get(url(sandbox_id, "/content"), params={"path": "/workspace/big"})
    assert down.content == b"".join(bytes([n]) * MIB for n in range(40))
    assert down.headers["content-type"] == "application/octet-stream"


async def test_broken_upload_changes_nothing(api: RunningApi) -> None:
    """A client that leaves midway has written nothing."""
    sandbox_id = await api.create()
    begun = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(
        api.client.put(url(sandbox_id, "/content"), params={"path": "/tmp/half"}, content=pieces())
    )
    await begun.wait()
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    assert (await api.client.get("/v1/sandboxes")).status_code == 200
    assert not api.node.machines[SandboxId(sandbox_id)].files


async def test_download_errors(api: RunningApi) -> None:
    """Before the first byte an error has its status; after it the connection is cut, never ended as if complete."""
    sandbox_id = await api.create()
    for path, status in (("/tmp/none", 404), ("/tmp", 422), ("x", 422)):
        answer = await api.client.get(url(sandbox_id, "/content"), params={"path": path})
        assert answer.status_code == status
    await api.client.put(url(sandbox_id, "/content"), params={"path": "/tmp/f"}, content=b"x" * MIB)
    api.node.read_error_after = 1
    with pytest.raises(httpx.RemoteProtocolError):
        await api.client.get(url(sandbox_id, "/content"), params={"path": "/tmp/f"})


async def test_empty_download(api: RunningApi) -> None:
    """An empty file is an empty body."""
    sandbox_id = await api.create()
    await api.client.put(url(sandbox_id, "/content"), params={"path": "/tmp/f"}, content=b"")
    answer = await api.client.get(url(sandbox_id, "/content"), params={"path": "/tmp/f"})
    assert (answer.status_code, answer.content) == (200, b"")


async def test_leaving_a_download_ends_its_reading(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file has no end worth waiting for."""
    sandbox = await api.create()
    ended, given_up = asyncio.Event(), asyncio.Event()

    async def endless(*_args: object, **_options: object) -> AsyncIterator[bytes]:
        try:
            while not given_up.is_set():
                yield bytes(65536)
                await asyncio.sleep(0)
        finally:
            ended.set()

    monkeypatch.setattr(api.node, "read_file", endless)
    async with api.client.stream("GET", url(sandbox, "/content"), params={"path": "/workspace/sparse"}) as answer:
        await anext(answer.aiter_raw())
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        given_up.set()


@pytest.mark.parametrize("call", ["stat", "content", ""])
async def test_terminating_ends_file_calls(api: RunningApi, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """They say that the sandbox has ended, and not that its guest is at fault."""
    sandbox = await api.create()

    async def terminated_meanwhile(*_args: object, **_options: object) -> None:
        await api.client.delete(f"/v1/sandboxes/{sandbox}")
        raise GuestFault("The guest is lost")

    async def read(*_args: object, **_options: object) -> AsyncIterator[bytes]:
        await terminated_meanwhile()
        yield b""

    monkeypatch.setattr(api.node, "stat_file", terminated_meanwhile)
    monkeypatch.setattr(api.node, "read_file", read)
    answer = await api.client.get(url(sandbox, f"/{call}".rstrip("/")), params={"path": "/workspace/a"})
    assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")
    assert "user" in answer.json()["detail"]
