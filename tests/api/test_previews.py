"""Previews: the way from a visitor without a key to a port of a guest."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx
import pytest
from support.api import RunningApi
from support.guest_server import guest_server

from terpd.api.previews import exchange, hosts

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-App: a\r\n\r\nhi"


def host_of(sandbox: str, port: int = 3000) -> str:
    return f"{port}-{sandbox.removeprefix('sbx_').lower()}.localhost"


async def visit(
    api: RunningApi, sandbox: str, path: str = "/", *, method: str = "GET", **options: object
) -> httpx.Response:
    headers = {"host": host_of(sandbox), **(options.pop("headers", None) or {})}  # type: ignore[dict-item]
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=30) as visitor:
        return await visitor.request(method, path, headers=headers, **options)  # type: ignore[arg-type]


async def token_of(api: RunningApi, sandbox: str) -> str:
    return str((await api.client.get(f"/v1/sandboxes/{sandbox}")).json()["preview_auth_token"])


async def raw(api: RunningApi, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(request)
    return reader, writer


async def test_request_and_answer_pass(api: RunningApi) -> None:
    """Target and headers arrive as sent, but for those of the connection; the answer has nothing of ours in it."""
    sandbox = await api.create(network="restricted")
    async with guest_server(api, sandbox, OK) as guest:
        answer = await visit(
            api,
            sandbox,
            "/a%2Fb?x=1&y=%20",
            headers={"x-own": "b", "connection": "x-hop", "x-hop": "c", "x-forwarded-for": "9.9.9.9, 6.6.6.6"},
        )
    assert (answer.status_code, answer.text, answer.headers["x-app"]) == (200, "hi", "a")
    assert set(answer.headers) == {"date", "content-length", "x-app"}
    lines = guest.heads[0].lower().split(b"\r\n")
    assert lines[0] == b"get /a%2fb?x=1&y=%20 http/1.1"
    expected = {b"host: " + host_of(sandbox).encode(), b"x-own: b", b"connection: close", b"x-forwarded-proto: http"}
    assert expected <= set(lines)
    # The proxy in front of us is on this host, so the last address is believed, and the one before is not.
    assert [line for line in lines if line.startswith(b"x-forwarded-for")] == [b"x-forwarded-for: 6.6.6.6"]
    assert not any(line.startswith(b"x-hop") for line in lines)


async def test_api_is_not_at_previews_and_previews_not_at_api(api: RunningApi) -> None:
    """Even a path of the API with a key goes to the guest; a host that only looks similar is the API's."""
    sandbox = await api.create(network="open")
    async with guest_server(api, sandbox, OK) as guest:
        key = api.client.headers["authorization"]
        answer = await visit(api, sandbox, "/v1/sandboxes", headers={"authorization": key})
        assert answer.text == "hi"
        assert answer.headers.get("x-request-id") is None
        for host in (f"x{host_of(sandbox)}", host_of(sandbox).removesuffix("localhost") + "example", "localhost"):
            assert (await visit(api, sandbox, "/healthz", headers={"host": host})).json() == {"status": "ok"}
    assert len(guest.heads) == 1


async def test_two_hosts_are_refused(api: RunningApi) -> None:
    """Whoever is in front of us could have meant the other one."""
    sandbox = await api.create(network="open")
    request = f"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: {host_of(sandbox)}\r\nconnection: close\r\n\r\n"
    reader, writer = await raw(api, request.encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_bodies_stream_both_ways(api: RunningApi) -> None:
    """A piece is answered before the next one is sent: nothing waits for an end."""
    sandbox = await api.create(network="open")

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while size := int(await reader.readline(), 16):
            piece = await reader.readexactly(size + 2)
            writer.write(b"%x\r\n%b" % (size, piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with guest_server(api, sandbox, echo):
        request = f"POST / HTTP/1.1\r\nhost: {host_of(sandbox)}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        reader, writer = await raw(api, request)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"3\r\none\r\n")
        assert await reader.readexactly(8) == b"3\r\none\r\n"
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        assert await reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.close()


async def test_large_bodies(api: RunningApi) -> None:
    """More than any buffer holds, in both directions, with a length."""
    sandbox = await api.create(network="open")
    size = 5_000_000

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, body[::-1]))
        await writer.drain()

    async with guest_server(api, sandbox, mirror):
        answer = await visit(api, sandbox, method="POST", content=b"a" + b"x" * (size - 1))
    assert (len(answer.content), answer.content[-1:]) == (size, b"a")


async def test_visitor_leaves(api: RunningApi) -> None:
    """Then the connection to the guest ends, also while nothing comes from it."""
    sandbox = await api.create(network="open")

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await reader.read()

    async with guest_server(api, sandbox, events) as guest:
        reader, writer = await raw(api, f"GET / HTTP/1.1\r\nhost: {host_of(sandbox)}\r\n\r\n".encode())
        assert b"data: 1" in await reader.readuntil(b"data: 1\n\n")
        writer.close()
        await asyncio.wait_for(guest.left.wait(), 20)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\1\2 garbage\r\n\r\n", id="garbage"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 300_000 + b"\r\n\r\n", id="long head"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: a\rb: c\r\n\r\n", id="bare CR"),
        pytest.param(b"HTTP/1.1 200 OK\r\nbad name: a\r\n\r\n", id="name"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\n\r\n", id="upgrade that nobody asked for"),
        pytest.param(b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", id="status"),
    ],
)
async def test_guest_that_talks_nonsense(api: RunningApi, answer: bytes) -> None:
    """502, and nothing of it reaches the visitor."""
    sandbox = await api.create(network="open")
    async with guest_server(api, sandbox, answer):
        told = await visit(api, sandbox)
    assert told.status_code == 502
    assert "no answer that makes sense" in told.text


@pytest.mark.parametrize("body", [b"content-length: 9\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nZZ"])
async def test_answer_that_breaks_off(api: RunningApi, body: bytes) -> None:
    """The visitor sees that it is not whole."""
    sandbox = await api.create(network="open")
    async with guest_server(api, sandbox, b"HTTP/1.1 200 OK\r\n" + body):
        with pytest.raises(httpx.RemoteProtocolError):
            await visit(api, sandbox)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
async def test_answers_without_bodies(api: RunningApi, method: str, status: int) -> None:
    """Also with a length, which is of what would have come."""
    sandbox = await api.create(network="open")
    async with guest_server(api, sandbox, b"HTTP/1.1 %d X\r\ncontent-length: 7\r\n\r\n" % status):
        answer = await visit(api, sandbox, method=method)
    assert (answer.status_code, answer.content) == (status, b"")


async def test_silent_guest(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """504, and the connection to it ends."""
    monkeypatch.setattr(exchange, "HEAD_S", 0.05)
    sandbox = await api.create(network="open")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with guest_server(api, sandbox, silent) as guest:
        assert (await visit(api, sandbox)).status_code == 504
        await asyncio.wait_for(guest.left.wait(), 20)


async def test_nothing_to_see(api: RunningApi) -> None:
    """Each reason has its status, and says nothing of the sandbox."""
    sandbox = await api.create(network="open")
    off = await api.create()
    unknown = "sbx_01JG0000000000000000000000"
    assert (await visit(api, sandbox)).status_code == 502  # nobody listens
    assert (await visit(api, off)).status_code == 404
    assert (await visit(api, unknown)).status_code == 404
    await api.client.post(f"/v1/sandboxes/{sandbox}/pause")
    assert (await visit(api, sandbox)).status_code == 503
    await api.client.delete(f"/v1/sandboxes/{sandbox}")
    gone = await visit(api, sandbox)
    assert gone.status_code == 410
    assert sandbox.removeprefix("sbx_").lower() not in gone.text.lower()


async def test_visit_wakes_a_paused_sandbox(api: RunningApi) -> None:
    """With auto_resume."""
    sandbox = await api.create(network="open", auto_resume=True)
    await api.client.post(f"/v1/sandboxes/{sandbox}/pause")
    assert (await visit(api, sandbox)).status_code == 502  # it runs again, and nobody listens yet
    assert (await api.client.get(f"/v1/sandboxes/{sandbox}")).json()["status"] == "running"


async def test_visits_at_once_are_bounded(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sandbox cannot take all descriptors of the server."""
    monkeypatch.setattr(hosts, "MAX_VISITS", 1)
    sandbox = await api.create(network="open")

    async def held(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n.")
        await reader.read()

    async with guest_server(api, sandbox, held):
        reader, writer = await raw(api, f"GET / HTTP/1.1\r\nhost: {host_of(sandbox)}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        assert (await visit(api, sandbox)).status_code == 503
        writer.close()


# ---- tokens ----


@pytest.mark.parametrize("name", ["ork_preview_token", "terp_preview_token"])
async def test_token_in_query_becomes_a_cookie(api: RunningApi, name: str) -> None:
    """The browser is sent to the same address without it; its cookie opens the preview, and the guest sees neither."""
    sandbox = await api.create(network="open", preview_auth=True)
    token = await token_of(api, sandbox)
    async with guest_server(api, sandbox, OK) as guest:
        first = await visit(api, sandbox, f"/a?b=1&{name}={token}&c=2")
        cookie = first.headers["set-cookie"]
        over_tls = await visit(api, sandbox, f"/?{name}={token}", headers={"x-forwarded-proto": "https"})
        second = await visit(api, sandbox, "/a", headers={"cookie": f"own=1; {cookie.partition(';')[0]}; x=2"})
    assert (first.status_code, first.headers["location"]) == (302, "/a?b=1&c=2")
    assert cookie.partition("; ")[2] == "Path=/; HttpOnly; SameSite=Lax"
    assert over_tls.headers["set-cookie"].endswith("; Secure")
    assert second.text == "hi"
    assert len(guest.heads) == 1
    assert b"\r\ncookie: own=1; x=2\r\n" in guest.heads[0].lower()
    assert token.encode() not in guest.heads[0]


@pytest.mark.parametrize("name", ["X-Orkestr-Preview-Token", "X-Terp-Preview-Token"])
async def test_token_in_header(api: RunningApi, name: str) -> None:
    """For programs; the guest does not see it."""
    sandbox = await api.create(network="open", preview_auth=True)
    token = await token_of(api, sandbox)
    async with guest_server(api, sandbox, OK) as guest:
        assert (await visit(api, sandbox, headers={name: token})).text == "hi"
    assert token.encode() not in guest.heads[0]
    assert name.lower().encode() not in guest.heads[0].lower()


async def test_without_the_right_token(api: RunningApi) -> None:
    """401, wherever the wrong one is; another sandbox's is wrong, too. Nobody is woken."""
    sandbox = await api.create(network="open", preview_auth=True, auto_resume=True)
    other = await token_of(api, await api.create(network="open", preview_auth=True))
    await api.client.post(f"/v1/sandboxes/{sandbox}/pause")
    for answer in (
        await visit(api, sandbox),
        await visit(api, sandbox, f"/?ork_preview_token={other}"),
        await visit(api, sandbox, headers={"x-terp-preview-token": b"\xe9"}),
        await visit(api, sandbox, headers={"cookie": f"terp_preview_token={other}"}),
    ):
        assert answer.status_code == 401
        assert "private" in answer.text
    assert (await api.client.get(f"/v1/sandboxes/{sandbox}")).json()["status"] == "paused"


async def test_cookie_is_not_for_pages_of_others(api: RunningApi) -> None:
    """Another preview's page cannot use it, though browsers take both for one site; its own other ports can."""
    sandbox = await api.create(network="open", preview_auth=True)
    other = await api.create(network="open")
    cookie = {"cookie": f"terp_preview_token={await token_of(api, sandbox)}"}
    async with guest_server(api, sandbox, OK):
        for origin, status in (
            (f"http://{host_of(other)}", 401),
            ("null", 401),
            ("http://[", 401),
            (f"http://{host_of(sandbox)}", 200),
            (f"http://{host_of(sandbox, 8000)}:1234", 200),
        ):
            answer = await visit(api, sandbox, headers={**cookie, "origin": origin})
            assert (origin, answer.status_code) == (origin, status)


async def test_redirect_stays_on_its_host(api: RunningApi) -> None:
    """A path that begins like a host's name is still a path."""
    sandbox = await api.create(network="open", preview_auth=True)
    token = await token_of(api, sandbox)
    request = f"GET //evil.example/?ork_preview_token={token} HTTP/1.1\r\nhost: {host_of(sandbox)}\r\n\r\n"
    reader, writer = await raw(api, request.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert b"\r\nlocation: /.//evil.example/\r\n" in head


async def test_post_with_token_in_query_is_passed(api: RunningApi) -> None:
    """A redirect would lose its body."""
    sandbox = await api.create(network="open", preview_auth=True)
    token = await token_of(api, sandbox)
    async with guest_server(api, sandbox, OK) as guest:
        answer = await visit(api, sandbox, f"/?ork_preview_token={token}", method="POST", content=b"x")
    assert answer.text == "hi"
    assert guest.heads[0].startswith(b"POST / HTTP/1.1\r\n")


# ---- WebSocket ----

HANDSHAKE = (
    "GET /chat?{query} HTTP/1.1\r\nhost: {host}\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: a, b\r\n\r\n"
)


async def frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agree, send a first frame in the same write, and then give back what comes."""
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: b\r\n\r\nfirst"
    )
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


async def test_websocket(api: RunningApi) -> None:
    """Handshake, subprotocol and frames are between the visitor and the guest; both ends see the other's end."""
    sandbox = await api.create(network="open", preview_auth=True)
    token = await token_of(api, sandbox)
    async with guest_server(api, sandbox, frames) as guest:
        query = f"ork_preview_token={token}&a=1"  # a browser's WebSocket has no headers, and follows no redirect
        reader, writer = await raw(api, HANDSHAKE.format(query=query, host=host_of(sandbox)).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 101 ")
        for line in (b"upgrade: websocket", b"connection: upgrade", b"sec-websocket-protocol: b"):
            assert b"\r\n" + line + b"\r\n" in head
        assert await reader.readexactly(5) == b"first"
        frame = bytes(range(256)) * 4096
        writer.write(frame)
        assert await reader.readexactly(len(frame)) == frame
        writer.close()
        await asyncio.wait_for(guest.left.wait(), 20)
    sent = guest.heads[0].lower()
    assert sent.startswith(b"get /chat?a=1 http/1.1\r\n")
    for line in (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-protocol: a, b"):
        assert b"\r\n" + line + b"\r\n" in sent


async def test_websocket_that_the_guest_ends(api: RunningApi) -> None:
    """What it sent before arrives."""
    sandbox = await api.create(network="open")
    answer = b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n" + b"y" * 300_000
    async with guest_server(api, sandbox, answer):
        reader, writer = await raw(api, HANDSHAKE.format(query="", host=host_of(sandbox)).encode())
        await reader.readuntil(b"\r\n\r\n")
        assert len(await asyncio.wait_for(reader.read(-1), 20)) == 300_000
        writer.close()


@pytest.mark.parametrize(
    ("answer", "status"), [(OK, b"200"), (b"garbage\r\n\r\n", b"502"), (b"HTTP/1.1 426 No\r\n\r\n", b"426")]
)
async def test_websocket_that_the_guest_refuses(api: RunningApi, answer: bytes, status: bytes) -> None:
    """It is an answer as any other, and the connection ends."""
    sandbox = await api.create(network="open")
    async with guest_server(api, sandbox, answer):
        reader, writer = await raw(api, HANDSHAKE.format(query="", host=host_of(sandbox)).encode())
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 " + status)
        writer.close()


async def test_api_has_no_websocket(api: RunningApi) -> None:
    """There an upgrade is ignored, as HTTP allows: the request is answered, with a key or without."""
    for path, status in (("/healthz", b"200"), ("/v1/sandboxes", b"401")):
        request = HANDSHAKE.format(query="", host="localhost").replace("/chat", path)
        reader, writer = await raw(api, request.encode())
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 " + status)
        writer.close()


async def test_websocket_needs_its_token(api: RunningApi) -> None:
    """401, also with the cookie when it is another's page that asks."""
    sandbox = await api.create(network="open", preview_auth=True)
    other = await api.create(network="open")
    stolen = f"cookie: terp_preview_token={await token_of(api, sandbox)}\r\norigin: http://{host_of(other)}\r\n\r\n"
    async with guest_server(api, sandbox, frames) as guest:
        for extra in ("\r\n", stolen):
            request = HANDSHAKE.format(query="", host=host_of(sandbox)).removesuffix("\r\n") + extra
            reader, writer = await raw(api, request.encode())
            assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 401")
            writer.close()
    assert not guest.heads
