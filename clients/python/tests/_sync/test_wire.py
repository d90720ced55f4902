# Generated from tests/_async/test_wire.py by tools/sync.py: change that one.
"""Over a real socket: signs of life, broken and silent connections, connections used again."""

from __future__ import annotations

import contextlib
import socket

import pytest

from terp import ConnectionFailed, RequestTimeout, Sandbox, Stdout, Terp


@pytest.fixture
def client(wire):
    with Terp(api_key="k", base_url=wire.url, timeout=20) as client:
        yield client


def get(wire, peer):
    first, _ = peer.request()
    assert first.startswith("GET /v1/sandboxes/sbx_1 "), first
    peer.reply(wire.sandbox)


def test_dripping_reply_is_waited_for(wire, client):
    """White space before the JSON keeps a long create alive."""

    def script(peer):
        peer.request()
        peer.head("201 Created")
        for _ in range(3):
            peer.chunk(b" ")
        peer.chunk(wire_sandbox)
        peer.end()

    wire_sandbox = wire.json(wire.sandbox)
    wire.serve(script)

    sandbox = Sandbox.create(client=client)

    assert sandbox.id == wire.sandbox["id"]


def test_connection_is_used_again_after_a_command(wire, client):
    """The stream is read to its very end, also over comments and events cut anywhere."""

    def script(peer):
        get(wire, peer)
        for _ in range(2):
            first, _ = peer.request()
            assert first.endswith("/exec HTTP/1.1")
            peer.head()
            peer.chunk(b": ka\n\n")
            for byte in wire.sse(wire.started, wire.chunk("€".encode())):
                peer.chunk(bytes([byte]))
            peer.chunk(b": ka\n\n" + wire.sse(wire.exited()))
            peer.end()

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    results = [sandbox.exec("true"), sandbox.exec("true")]

    assert [result.stdout for result in results] == ["€", "€"]
    wire.join()


def test_output_comes_before_the_command_ends(wire, client):
    """An event is given when it arrives, not when the next one does."""
    seen = wire.event()

    def script(peer):
        get(wire, peer)
        peer.request()
        peer.head()
        peer.chunk(wire.sse(wire.started, wire.chunk(b"first")))
        assert seen.wait(20)
        peer.chunk(wire.sse(wire.exited()))
        peer.end()

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    for event in sandbox.exec_stream("true"):
        if isinstance(event, Stdout):
            seen.set()

    wire.join()


def test_leaving_a_stream_closes_its_connection(wire, client):
    """The server learns that nobody listens any more, and the client goes on with another connection."""

    def script(peer):
        get(wire, peer)
        peer.request()
        peer.head()
        peer.chunk(wire.sse(wire.started))
        assert peer.left()

    wire.serve(script, lambda peer: get(wire, peer))
    sandbox = Sandbox.get("sbx_1", client=client)

    with contextlib.closing(sandbox.exec_stream("sleep 100")) as events:
        for _ in events:
            break
    Sandbox.get("sbx_1", client=client)

    wire.join()


def test_broken_stream_is_an_error_of_ours(wire, client):
    """A connection cut in the middle of a command says nothing about the command."""

    def script(peer):
        get(wire, peer)
        peer.request()
        peer.head()
        peer.chunk(wire.sse(wire.started))

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    with pytest.raises(ConnectionFailed) as caught:
        sandbox.exec("true")

    assert caught.value.sent


def test_connection_that_breaks_after_the_last_event_breaks_nothing(wire, client):
    """The result was complete."""

    def script(peer):
        get(wire, peer)
        peer.request()
        peer.head()
        peer.chunk(wire.sse(wire.started, wire.exited(7)))

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    result = sandbox.exec("exit 7")

    assert result.exit_code == 7


def test_cut_download_is_an_error(wire, client):
    """Half a file is never taken for the whole."""

    def script(peer):
        get(wire, peer)
        peer.request()
        peer.head()
        peer.chunk(b"half")

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    with pytest.raises(ConnectionFailed):
        sandbox.files.read_bytes("/tmp/a")


def test_upload_is_streamed(wire, client):
    """A body of unknown length goes out in chunks."""
    bodies = []

    def script(peer):
        get(wire, peer)
        first, body = peer.request()
        assert first.startswith("PUT ")
        bodies.append(body)
        peer.reply({})

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    sandbox.files.write_stream("/tmp/a", (b"%d" % number for number in range(3)))

    wire.join()
    assert bodies == [b"012"]


def test_refused_upload_says_why(wire, client):
    """The server's reason is read although it did not take all of the body."""

    def script(peer):
        get(wire, peer)
        peer.request()
        peer.reply({"detail": "full", "code": "too_large"}, "413 Content Too Large")

    wire.serve(script)
    sandbox = Sandbox.get("sbx_1", client=client)

    with pytest.raises(Exception, match="full") as caught:
        sandbox.files.write_stream("/tmp/a", [b"x"])

    assert type(caught.value).__name__ == "TooLarge"


def test_silent_server_is_a_timeout(wire):
    """It is not retried for a command: it may have run."""

    def script(peer):
        get(wire, peer)
        peer.request()
        assert peer.left()

    wire.serve(script)
    with Terp(api_key="k", base_url=wire.url, timeout=0.2) as client:
        sandbox = Sandbox.get("sbx_1", client=client)

        with pytest.raises(RequestTimeout):
            sandbox.exec("true")

    wire.join()


def test_nobody_there():
    """A refused connection is told with the address, and that nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Terp(api_key="k", base_url=url) as client:
        with pytest.raises(ConnectionFailed, match=url) as caught:
            Sandbox.limits(client=client)

    assert not caught.value.sent


def test_environment_s_proxy_is_not_asked_for_this_machine(wire, monkeypatch):
    """A proxy cannot reach the loopback address of the machine that uses it."""
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")
    wire.serve(lambda peer: get(wire, peer))

    with Terp(api_key="k", base_url=wire.url, timeout=20) as other:
        sandbox = Sandbox.get("sbx_1", client=other)

    assert sandbox.status == "running"
