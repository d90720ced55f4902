"""Files by URLs that need no key."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import re
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.api import KEYS, POLICY, RunningApi, running_api
from support.simulated_node import SimulatedFile

from terpd.api.ranges import Span, parse_range
from terpd.control.presign import Act, Presign
from terpd.model.ids import SandboxId, TenantId
from terpd.sealing.keyring import KeyRing

MIB = 1024 * 1024
LARGE = 300 * MIB


class Zeros:
    """As many bytes as asked for, and none of them in memory."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(self._size)
        return bytes(stop - start)


@pytest.fixture
async def anyone() -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


async def presigned(api: RunningApi, sandbox_id: str, act: str, path: str, **body: object) -> str:
    answer = await api.client.post(f"/v1/sandboxes/{sandbox_id}/files/presign-{act}", json={"path": path, **body})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["path"], found["method"]) == (path, {"download": "GET", "upload": "PUT"}[act])
    return str(found["url"])


async def put_file(api: RunningApi, sandbox_id: str, path: str, content: bytes) -> None:
    api.node.machines[SandboxId(sandbox_id)].files[path] = SimulatedFile(content)


async def test_up_and_down_again(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """Whoever has the URLs writes and reads, as often as they like and without a key; the mode is 0644."""
    sandbox_id = await api.create()
    up = await presigned(api, sandbox_id, "upload", '/workspace/deep/ä "x".bin')
    down = await presigned(api, sandbox_id, "download", '/workspace/deep/ä "x".bin', expires_in=60)
    assert up.startswith(f"{api.url}/v1/files/")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", up.rpartition("/")[2])
    for content in (b"", bytes(range(256)) * 1000):
        answer = await anyone.put(up, content=content)
        assert (answer.status_code, answer.json()["size"]) == (200, len(content))
        answer = await anyone.get(down)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "application/octet-stream"
        wanted = "attachment; filename=\"_ _x_.bin\"; filename*=UTF-8''%C3%A4%20%22x%22.bin"
        assert answer.headers["content-disposition"] == wanted
    head = await anyone.head(down)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "256000", b"")
    assert api.node.machines[SandboxId(sandbox_id)].files['/workspace/deep/ä "x".bin'].mode == 0o644


@pytest.mark.parametrize(
    ("header", "status", "content", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=1-2,4-5", 200, b"0123456789", None),
        ("bytes=5-2", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
async def test_ranges(
    api: RunningApi, anyone: httpx.AsyncClient, header: str, status: int, content: bytes, content_range: str | None
) -> None:
    """One range is served; several, and what is none, are answered with the whole file, as they may be."""
    sandbox_id = await api.create()
    await put_file(api, sandbox_id, "/workspace/f", b"0123456789")
    answer = await anyone.get(await presigned(api, sandbox_id, "download", "/workspace/f"), headers={"range": header})
    assert (answer.status_code, answer.content) == (status, content)
    assert answer.headers.get("content-range") == content_range
    assert answer.headers["content-length"] == str(len(content))


async def test_a_range_with_a_condition_is_the_whole_file(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """Nothing says that the file is still the one whose part the client has."""
    sandbox_id = await api.create()
    await put_file(api, sandbox_id, "/workspace/f", b"0123456789")
    headers = {"range": "bytes=5-", "if-range": '"etag"'}
    answer = await anyone.get(await presigned(api, sandbox_id, "download", "/workspace/f"), headers=headers)
    assert (answer.status_code, answer.content) == (200, b"0123456789")


def test_ranges_of_nothing() -> None:
    """An empty file has no part, and no number is too large to be read."""
    assert parse_range("bytes=0-", 0) == Span(0, 0)
    assert parse_range("bytes=0-9999999999999999999", 5) == Span(0, 5)
    assert parse_range("bytes=0-99999999999999999999", 5) is None
    assert parse_range(None, 5) is None
    assert parse_range("bytes=٣-", 5) is None


@pytest.mark.parametrize("act", ["download", "upload"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"path": "relative"}, "invalid_request"),
        ({"path": "/workspace/x", "expires_in": 59}, "invalid_request"),
        ({"path": "/workspace/x", "expires_in": 3601}, "invalid_request"),
        ({}, "invalid_request"),
    ],
)
async def test_refused_grants(api: RunningApi, act: str, body: dict[str, object], code: str) -> None:
    sandbox_id = await api.create()
    answer = await api.client.post(f"/v1/sandboxes/{sandbox_id}/files/presign-{act}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_only_writable_places_are_granted_for_writing(api: RunningApi) -> None:
    sandbox_id = await api.create()
    answer = await api.client.post(f"/v1/sandboxes/{sandbox_id}/files/presign-upload", json={"path": "/etc/passwd"})
    assert (answer.status_code, answer.json()["code"]) == (422, "not_permitted")
    await presigned(api, sandbox_id, "download", "/etc/passwd")


async def test_tokens_hold_for_what_they_say(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """The other method, any changed character, another server's token and an expired one are refused, each clearly."""
    sandbox_id = await api.create()
    await put_file(api, sandbox_id, "/workspace/f", b"secret")
    up = await presigned(api, sandbox_id, "upload", "/workspace/f")
    down = await presigned(api, sandbox_id, "download", "/workspace/f")
    for method, url in (("GET", up), ("HEAD", up), ("PUT", down)):
        assert (await anyone.request(method, url, content=b"")).status_code == 403
    base, _, token = down.rpartition("/")
    payload, _, signature = token.partition(".")
    other = (
        base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "==").replace(b"/f", b"/g")).decode().rstrip("=")
    )
    forged = [other + "." + signature, payload, payload + ".", "." + signature, signature, "x", "%00", payload + ".é"]
    flipped = [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(0, len(token), 7)]
    last = [f"{token[:-1]}{character}" for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" if character != token[-1]]
    for wrong in (*forged, *flipped, *last, "A" * 50_000):
        answer = await anyone.get(f"{base}/{wrong}")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), wrong[:400]
    assert (await anyone.get(down)).content == b"secret"


async def test_expiry_and_rotation(api: RunningApi) -> None:
    """A token ends when it says; a rotation of the server's key does not end it, the loss of the key does."""
    sandbox_id = SandboxId(await api.create())
    presign = api.services.presign

    class Later:
        def now(self) -> dt.datetime:
            return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)

    token, grant = await presign.grant(TenantId("acme"), sandbox_id, "/tmp/x", Act.DOWNLOAD, expires_in=60)
    assert presign.check(token, Act.DOWNLOAD) == grant

    def other(keys: KeyRing, clock: object = None) -> Presign:
        return Presign(api.store, api.services.files, POLICY, keys, clock or presign._clock)  # type: ignore[arg-type]

    assert other(KeyRing([b"n" * 32, bytes(32)])).check(token, Act.DOWNLOAD) == grant
    for refusing, code in ((other(KEYS, Later()), "forbidden"), (other(KeyRing([b"n" * 32])), "unauthenticated")):
        with pytest.raises(Exception, match="URL") as refused:
            refusing.check(token, Act.DOWNLOAD)
        assert getattr(refused.value, "code", None) == code


async def test_what_is_gone_is_said(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """A file that is not there, a directory, a paused sandbox, an ended one: each as any other call says it."""
    sandbox_id = await api.create()
    down = await presigned(api, sandbox_id, "download", "/workspace/none")
    up = await presigned(api, sandbox_id, "upload", "/workspace/none")
    directory = await presigned(api, sandbox_id, "download", "/workspace")
    answer = await anyone.get(down)
    assert (answer.status_code, answer.json()["code"]) == (404, "file_not_found")
    assert (await anyone.get(directory)).status_code == 422
    await api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")
    assert (await anyone.get(down)).status_code == 409
    assert (await anyone.put(up, content=b"x")).status_code == 409
    await api.client.delete(f"/v1/sandboxes/{sandbox_id}")
    for answer in (await anyone.get(down), await anyone.put(up, content=b"x")):
        assert (answer.status_code, answer.json()["code"]) == (409, "state_conflict")
    refused = await api.client.post(f"/v1/sandboxes/{sandbox_id}/files/presign-download", json={"path": "/tmp/x"})
    assert refused.status_code == 409


async def test_a_paused_sandbox_wakes_for_its_files(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """With auto_resume, as for every other call."""
    sandbox_id = await api.create(auto_resume=True)
    await put_file(api, sandbox_id, "/workspace/f", b"kept")
    down = await presigned(api, sandbox_id, "download", "/workspace/f")
    await api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")
    assert (await anyone.get(down)).content == b"kept"


async def test_uploads_need_a_length_and_are_whole(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """Without Content-Length 411; one that breaks off changes nothing."""
    sandbox_id = await api.create()
    await put_file(api, sandbox_id, "/workspace/f", b"before")
    up = await presigned(api, sandbox_id, "upload", "/workspace/f")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"after"

    assert (await anyone.put(up, content=pieces())).status_code == 411

    async def broken() -> AsyncIterator[bytes]:
        yield b"after"
        raise RuntimeError("the client gives up")

    with pytest.raises(RuntimeError):
        await anyone.put(up, content=broken(), headers={"content-length": "100"})
    assert api.node.machines[SandboxId(sandbox_id)].files["/workspace/f"].content == b"before"


async def test_a_file_that_breaks_off_is_cut(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """The client sees that it has not all of it."""
    sandbox_id = await api.create()
    await put_file(api, sandbox_id, "/workspace/f", bytes(MIB))
    api.node.read_error_after = MIB // 2
    with pytest.raises(httpx.RemoteProtocolError):
        await anyone.get(await presigned(api, sandbox_id, "download", "/workspace/f"))


async def test_gigabytes_are_not_held(api: RunningApi, anyone: httpx.AsyncClient) -> None:
    """What streams through takes no memory, however much it is, in either direction."""
    sandbox_id = await api.create()
    machine = api.node.machines[SandboxId(sandbox_id)]
    machine.files["/workspace/large"] = SimulatedFile(Zeros(LARGE))  # type: ignore[arg-type]
    api.node.swallowed["/workspace/sink"] = 0
    down = await presigned(api, sandbox_id, "download", "/workspace/large")
    up = await presigned(api, sandbox_id, "upload", "/workspace/sink")

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(LARGE // MIB):
            yield bytes(MIB)

    tracemalloc.start()
    try:
        received = 0
        async with anyone.stream("GET", down) as answer:
            assert answer.headers["content-length"] == str(LARGE)
            async for chunk in answer.aiter_raw():
                received += len(chunk)
        assert received == LARGE
        sent = await anyone.put(up, content=zeros(), headers={"content-length": str(LARGE)})
        assert sent.json()["size"] == LARGE
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()


async def test_urls_begin_as_the_operator_says(tmp_path: Path, anyone: httpx.AsyncClient) -> None:
    """Behind a proxy the server does not see how clients reach it."""
    policy = dataclasses.replace(POLICY, public_url="https://terp.example/base")
    async with running_api(tmp_path, policy=policy) as api:
        sandbox_id = await api.create()
        url = await presigned(api, sandbox_id, "upload", "/tmp/x")
        assert url.startswith("https://terp.example/base/v1/files/")
        direct = api.url + url.removeprefix("https://terp.example/base")
        assert (await anyone.put(direct, content=b"x")).status_code == 200


async def test_tokens_are_not_logged(
    api: RunningApi, anyone: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the log must not have the files."""
    sandbox_id = await api.create()
    url = await presigned(api, sandbox_id, "upload", "/tmp/x")
    await anyone.put(url, content=b"x")
    printed = caplog.text + "".join(capsys.readouterr())
    assert "/v1/files/" in printed
    assert url.rpartition("/")[2][:20] not in printed
