"""Commands: events, results, and what ends them."""

from __future__ import annotations

import base64

import httpx
import pytest

from terp import (
    AsyncSandbox,
    AsyncTerp,
    BadReply,
    CommandFailed,
    ConnectionFailed,
    ExecKilled,
    ExecNotFound,
    ExecTimeout,
    Exited,
    InvalidRequest,
    Started,
    StateConflict,
    Stderr,
    Stdout,
)


@pytest.fixture
async def sandbox(server):
    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield await AsyncSandbox.create(client=client)


async def test_exec_sends_the_command_and_collects_its_output(server, sandbox):
    """The result is what came on both streams, and how it ended."""
    server.exec(server.started, server.chunk(b"out\n"), server.chunk(b"err\n", "stderr"), server.exited(3))

    result = await sandbox.exec("make", cwd="/tmp", env={"A": "1"}, timeout=5, stdin="in")

    assert server.sent() == {
        "command": "make",
        "cwd": "/tmp",
        "env": {"A": "1"},
        "timeout_seconds": 5,
        "stream": True,
        "stdin": "in",
    }
    assert (result.stdout, result.stderr, result.exit_code, result.duration_ms) == ("out\n", "err\n", 3, 18)
    with pytest.raises(CommandFailed, match="exit code 3: err") as caught:
        result.check()
    assert caught.value.result is result


async def test_arguments_reach_the_program_as_they_are(server, sandbox):
    """A sequence is quoted for the shell."""
    server.exec(server.started, server.exited())

    await sandbox.exec(["echo", "a b", "$HOME", ""])

    assert server.sent()["command"] == "echo 'a b' '$HOME' ''"


async def test_stream_gives_typed_events(server, sandbox):
    """Bytes are as written; the text of a cut character comes with its second half."""
    euro = "€".encode()
    server.exec(
        server.started,
        server.chunk(euro[:1], offset=0),
        {"kind": "from_the_future"},
        server.chunk(b"x", "stderr", offset=1),
        server.chunk(euro[1:], offset=2),
        server.chunk(b"\xff\xe2"),
        server.exited(),
    )

    events = [event async for event in sandbox.exec_stream("true")]

    assert events == [
        Started(pid=17, command_id="cmd_01JG0000000000000000000000"),
        Stdout(b"\xe2", "", 0),
        Stderr(b"x", "x", 1),
        Stdout(euro[1:], "€", 2),
        Stdout(b"\xff\xe2", "\N{REPLACEMENT CHARACTER}", 4),
        Stdout(b"", "\N{REPLACEMENT CHARACTER}", 6),
        Exited(0, 18),
    ]


async def test_attach_goes_on_where_the_stream_broke(server, sandbox):
    """The offset and length of the last piece say what was seen already."""
    server.exec(server.started, server.chunk(b"one", offset=0), server.chunk(b"two", "stderr", offset=3))
    stream = sandbox.exec_stream("make")
    started, _, last = [await anext(stream) for _ in range(3)]
    with pytest.raises(ConnectionFailed, match="attach"):
        await anext(stream)
    server.exec(server.chunk(b"three", offset=6), server.exited(2))

    rest = sandbox.attach(started.command_id, offset=last.offset + len(last.data))

    assert [event async for event in rest] == [Stdout(b"three", "three", 6), Exited(2, 18)]
    assert server.calls[-1] == f"GET /v1/sandboxes/{sandbox.id}/exec/cmd_01JG0000000000000000000000?offset=6"


async def test_attach_to_what_is_not_there(server, sandbox):
    """The guest forgets commands that ended long ago."""
    server.reply(404, {"detail": "no such", "code": "command_not_found"})

    with pytest.raises(ExecNotFound):
        async for _ in sandbox.attach("cmd_1"):
            pass


async def test_attach_asks_again_when_the_connection_was_lost(server, sandbox):
    """Looking on changes nothing, a command is only ever started once."""
    server.fail(httpx.ReadError("reset"))
    server.exec(server.exited())

    assert [event async for event in sandbox.attach("cmd_1")] == [Exited(0, 18)]


async def test_callbacks_get_the_text_as_it_comes(server, sandbox):
    """Each stream has its own, and the result is complete all the same."""
    server.exec(server.started, server.chunk(b"a"), server.chunk(b"b", "stderr"), server.chunk(b"c"), server.exited())
    out, err = [], []

    result = await sandbox.exec("true", on_stdout=out.append, on_stderr=err.append)

    assert (out, err, result.stdout) == (["a", "c"], ["b"], "ac")


async def test_what_a_callback_raises_comes_out(server, sandbox):
    """It is the caller's own, and the stream is left."""
    server.exec(server.started, server.chunk(b"a"), server.exited())

    with pytest.raises(KeyError):
        await sandbox.exec("true", on_stdout={}.__getitem__)


async def test_timeout_keeps_the_output_so_far(server, sandbox):
    """What a command wrote before it was ended is often the reason why it was."""
    server.exec(
        server.started, server.chunk(b"waiting"), {"kind": "error", "code": "exec_timeout", "message": "after 60 s"}
    )

    with pytest.raises(ExecTimeout, match="after 60 s") as caught:
        await sandbox.exec("sleep 100")

    assert caught.value.stdout == "waiting"
    assert caught.value.code == "exec_timeout"


async def test_killed_says_the_signal(server, sandbox):
    """A death by signal is no exit code."""
    server.exec(server.started, {"kind": "error", "code": "exec_killed", "message": "killed", "signal": 9})

    with pytest.raises(ExecKilled) as caught:
        await sandbox.exec("kill -9 $$")

    assert caught.value.signal == 9


async def test_errors_before_the_stream_are_classified(server, sandbox):
    """The status and body of a refused command are read like any other's."""
    server.reply(409, {"detail": "is terminated", "code": "state_conflict"})

    with pytest.raises(StateConflict):
        await sandbox.exec("true")


async def test_command_is_never_sent_twice(server, sandbox):
    """A lost connection leaves open whether it ran."""
    server.fail(httpx.ReadError("reset"))

    with pytest.raises(ConnectionFailed) as caught:
        await sandbox.exec("rm -r x")

    assert caught.value.sent


async def test_command_is_sent_again_when_nothing_was_sent(server, sandbox):
    """A refused connection leaves nothing open."""
    server.fail(httpx.ConnectError("refused"))
    server.exec(server.started, server.exited())

    result = await sandbox.exec("true")

    assert result.exit_code == 0


async def test_stream_without_an_end_is_an_error(server, sandbox):
    """A result without an exit code would be a lie."""
    server.exec(server.started, server.chunk(b"half"))

    with pytest.raises(ConnectionFailed, match="runs on"):
        await sandbox.exec("true")


@pytest.mark.parametrize(
    "content",
    [
        b"data: no json\n\n",
        b"data: []\n\n",
        b'data: {"kind":"exec_chunk","stream":"stdout"}\n\n',
        b'data: {"kind":"exec_chunk","stream":"other","data":""}\n\n',
        b'data: {"kind":"exec_chunk","stream":"stdout","data":"%"}\n\n',
        b'data: {"kind":"exec_exited"}\n\n',
    ],
)
async def test_nonsense_in_the_stream_is_a_bad_reply(server, sandbox, content):
    """Whatever comes, what comes out is ours."""
    server.reply(content=content)

    with pytest.raises(BadReply):
        await sandbox.exec("true")


async def test_binary_stdin_is_refused_with_a_way_out(server, sandbox):
    """The wire carries text."""
    with pytest.raises(InvalidRequest, match="redirect"):
        await sandbox.exec("cat", stdin=b"\xff")


async def test_output_is_collected_to_a_limit(server, sandbox):
    """A guest that writes without end does not fill the caller's memory; callbacks still see all of it."""
    piece = base64.b64encode(b"x" * (1 << 20)).decode()
    frame = {"kind": "exec_chunk", "stream": "stdout", "data": piece}
    server.exec(server.started, *[frame] * 17, server.exited())
    sizes = []

    result = await sandbox.exec("yes", on_stdout=lambda text: sizes.append(len(text)))

    assert len(result.stdout) == 16 << 20
    assert result.truncated
    assert sum(sizes) == 17 << 20


async def test_output_of_two_streams_may_overlap_in_place(server, sandbox):
    """A character cut by the other stream's output comes whole, at its own place, which is before the other's end."""
    euro = "€".encode()
    server.exec(
        server.started,
        server.chunk(b"a", offset=0),
        server.chunk(b"err", "stderr", offset=2),
        server.chunk(euro, offset=1),
        server.exited(),
    )

    result = await sandbox.exec("true")

    assert (result.stdout, result.stderr) == ("a€", "err")
