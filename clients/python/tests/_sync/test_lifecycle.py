# Generated from tests/_async/test_lifecycle.py by tools/sync.py: change that one.
"""Create, find, renew, end."""

from __future__ import annotations

import datetime as dt

import httpx
import pytest

from terp import (
    BadReply,
    CapacityUnavailable,
    ConnectionFailed,
    GuestFault,
    InvalidRequest,
    Sandbox,
    SandboxNotFound,
    StateConflict,
    Terp,
    Unauthenticated,
)

URL = "http://server.test/prefix/"


@pytest.fixture
def client(server):
    with Terp(api_key="terp_k", base_url=URL, transport=server.transport) as client:
        yield client


@pytest.fixture
def sandbox(server, client):
    server.reply(201, server.sandbox)
    return Sandbox.create(client=client)


def test_create_sends_all_that_was_asked_for(server, client):
    """What the caller gives is what the server gets, with the key and an idempotency key."""
    server.reply(201, server.sandbox)

    sandbox = Sandbox.create("node-22", timeout=60, env={"A": "ä"}, metadata={"user": "42"}, client=client)

    request = server.requests[0]
    assert str(request.url) == "http://server.test/prefix/v1/sandboxes"
    assert request.headers["authorization"] == "Bearer terp_k"
    assert len(request.headers["idempotency-key"]) == 32
    assert server.sent() == {
        "template": "node-22",
        "size": "small",
        "network": "off",
        "timeout_seconds": 60,
        "on_timeout": "kill",
        "auto_resume": False,
        "env": {"A": "ä"},
        "metadata": {"user": "42"},
    }
    assert sandbox.id == server.sandbox["id"]
    assert sandbox.status == "running"
    assert sandbox.metadata == {"user": "42"}
    assert sandbox.expires_at == dt.datetime(2026, 1, 1, 0, 10, 0, 123456, tzinfo=dt.timezone.utc)


def test_create_waits_for_a_full_server(server, client):
    """A full server is asked again after the time it names, with the same idempotency key."""
    full = {"detail": "full", "code": "fleet_full_retry"}
    server.reply(503, full, {"retry-after": "0.01"})
    server.reply(503, full, {"retry-after": "0.01"})
    server.reply(201, server.sandbox)

    Sandbox.create(client=client)

    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


def test_create_gives_up_when_the_wait_would_be_too_long(server):
    """A delay beyond the budget is not even begun."""
    server.reply(503, {"detail": "full", "code": "fleet_full_retry"}, {"retry-after": "7"})
    with Terp(api_key="k", base_url=URL, transport=server.transport, wait_for_capacity=6) as client:
        with pytest.raises(CapacityUnavailable) as caught:
            Sandbox.create(client=client)

    assert caught.value.retry_after == 7
    assert caught.value.retryable


def test_lost_reply_to_create_makes_no_second_sandbox(server, client):
    """After a lost reply the same request goes out under the same key; another create has another key."""
    server.fail(httpx.RemoteProtocolError("Server disconnected without sending a response."))
    server.reply(201, server.sandbox)
    server.reply(201, server.sandbox)

    Sandbox.create(client=client)
    Sandbox.create(client=client)

    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[0] == keys[1] != keys[2]
    assert server.requests[0].content == server.requests[1].content


def test_failure_after_the_status_is_a_failure(server, client):
    """A long create has its status sent early; what fails then comes as a 201 with a code."""
    server.reply(201, content=b'    {"detail": "did not come up", "code": "guest_fault"}')

    with pytest.raises(GuestFault, match="did not come up"):
        Sandbox.create(client=client)


def test_create_refuses_a_sandbox_that_is_no_more(server, client):
    """A repeated create may be answered with a sandbox that has ended meanwhile."""
    server.reply(201, {**server.sandbox, "status": "failed"})

    with pytest.raises(StateConflict, match="failed already"):
        Sandbox.create(client=client)


def test_leaving_the_block_terminates(server, client):
    """The end of a with block is the end of the sandbox; terminating again asks nobody."""
    server.reply(201, server.sandbox)
    server.reply(204)

    with Sandbox.create(client=client) as sandbox:
        pass
    sandbox.terminate()

    assert server.calls[1:] == [f"DELETE /prefix/v1/sandboxes/{sandbox.id}"]
    assert sandbox.status == "terminated"


def test_own_error_of_the_block_is_the_one_that_comes_out(server, client, sandbox):
    """A failing clean-up does not hide why the block was left."""
    server.reply(500, {"detail": "broken", "code": "internal"})

    with pytest.raises(ZeroDivisionError):
        with sandbox:
            1 / 0  # noqa: B018


def test_failing_clean_up_is_told_when_nothing_else_is(server, client, sandbox):
    """A sandbox that could not be terminated costs until its lease ends: the caller must know."""
    server.reply(409, {"detail": "not now", "code": "state_conflict"})

    with pytest.raises(StateConflict):
        with sandbox:
            pass


def test_get_and_refresh_ask_again(server, client):
    """What an object says is what the server said last."""
    server.reply(200, server.sandbox)
    server.reply(200, {**server.sandbox, "status": "terminated", "end_reason": "lease"})

    sandbox = Sandbox.get("sbx_x/../y", client=client)
    sandbox.refresh()

    assert server.calls[0] == "GET /prefix/v1/sandboxes/sbx_x%2F..%2Fy"
    assert sandbox.status == "terminated"
    assert sandbox.info.end_reason == "lease"


def test_set_timeout_moves_the_end(server, client, sandbox):
    """The new end is the server's word, not the client's clock."""
    server.reply(200, {"expires_at": "2026-01-01T01:00:00+01:00"})

    sandbox.set_timeout(3600)

    assert server.sent() == {"timeout_seconds": 3600}
    assert sandbox.expires_at == dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


def test_list_goes_through_all_pages(server, client):
    """Filters are repeated with every cursor, and no page is asked for before it is needed."""
    server.reply(200, {"sandboxes": [server.sandbox], "next_cursor": "c/1"})
    server.reply(200, {"sandboxes": [server.sandbox, server.sandbox], "next_cursor": None})

    found = [sandbox for sandbox in Sandbox.list(status="running", metadata={"a b": "4/2"}, client=client)]

    query = "limit=200&status=running&metadata%5Ba%20b%5D=4/2"
    assert len(found) == 3
    assert server.calls == [f"GET /prefix/v1/sandboxes?{query}", f"GET /prefix/v1/sandboxes?{query}&cursor=c/1"]


def test_limits(server, client):
    """A server that does not name the longest lease is understood too."""
    row = {"size": "small", "cpu": 1, "memory_mb": 1024, "allowed": True}
    server.reply(200, {"plan": "enterprise", "max_concurrent": 8, "sizes": [row]})

    limits = Sandbox.limits(client=client)

    assert limits.max_concurrent == 8
    assert limits.sizes[0].memory_mb == 1024
    assert limits.max_timeout_seconds is None


def test_errors_say_what_the_server_said(server, client):
    """Code, status, request id and further members of the body are at hand."""
    server.reply(404, {"detail": "no such", "code": "sandbox_not_found", "hint": 1}, {"x-request-id": "r1"})

    with pytest.raises(SandboxNotFound) as caught:
        Sandbox.get("sbx_1", client=client)

    error = caught.value
    assert (str(error), error.code, error.status, error.request_id) == ("no such", "sandbox_not_found", 404, "r1")
    assert error.fields == {"hint": 1}
    assert not error.retryable


@pytest.mark.parametrize("repeats", [3])
def test_reading_is_repeated_when_the_connection_breaks(server, client, repeats):
    """Three times, then the error comes out as one of ours."""
    for _ in range(repeats + 1):
        server.fail(httpx.ReadError("reset"))

    with pytest.raises(ConnectionFailed, match="reset"):
        Sandbox.get("sbx_1", client=client)


def test_no_key_is_said_before_anything_is_sent(server):
    """Without a key there is no client."""
    with pytest.raises(Unauthenticated, match="TERP_API_KEY"):
        Terp(base_url=URL, transport=server.transport)


def test_closed_client_says_so(server):
    """No other library's RuntimeError comes out."""
    client = Terp(api_key="k", base_url=URL, transport=server.transport)
    client.close()

    with pytest.raises(InvalidRequest, match="closed"):
        Sandbox.limits(client=client)


@pytest.mark.parametrize("content", [b"<html>hello</html>", b"[]", b'{"id": 1}', b"", b'{"id":"x","metadata":[]}'])
def test_other_servers_replies_are_bad_replies(server, client, content):
    """Whatever stands behind the address, what comes out is ours."""
    server.reply(200, content=content)

    with pytest.raises(BadReply):
        Sandbox.get("sbx_1", client=client)


def test_default_client_is_shared_and_follows_the_environment(wire, monkeypatch):
    """Without a client of one's own two calls use one connection; another address is another client."""
    monkeypatch.setenv("TERP_API_KEY", "k")
    monkeypatch.setenv("TERP_BASE_URL", wire.url)

    def script(peer):
        for _ in range(2):
            first, _ = peer.request()
            assert first.startswith("GET /v1/sandboxes/sbx_1 ")
            peer.reply(wire.sandbox)

    wire.serve(script)

    Sandbox.get("sbx_1")
    Sandbox.get("sbx_1")

    wire.join()
    monkeypatch.delenv("TERP_API_KEY")
    with pytest.raises(Unauthenticated):
        Sandbox.get("sbx_1")
