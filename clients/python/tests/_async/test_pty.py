"""Terminals: typing once, output over broken connections."""

from __future__ import annotations

import httpx
import pytest

from terp import AsyncSandbox, AsyncTerp, BadReply, ConnectionFailed, DeadlineExceeded, LimitExceeded

PTY = {
    "id": "cmd_2",
    "command": "bash -l",
    "pid": 9,
    "status": "running",
    "exit_code": None,
    "started_at": "2026-01-01T00:00:00Z",
}

pytestmark = pytest.mark.usefixtures("delays")


@pytest.fixture
async def sandbox(server):
    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield await AsyncSandbox.create(client=client)


@pytest.fixture
async def pty(server, sandbox):
    server.reply(201, PTY)
    return await sandbox.pty()


def typed(server, start):
    return [
        (call.partition("offset=")[2], body.content)
        for call, body in list(zip(server.calls, server.requests, strict=True))[start:]
    ]


async def test_open_with_a_size_and_a_command(server, sandbox):
    """Without a command it is the server's choice: a login shell."""
    server.reply(201, PTY)
    server.reply(201, PTY)

    await sandbox.pty()
    assert server.sent() == {"cols": 80, "rows": 24, "cwd": "/workspace", "env": {}}
    await sandbox.pty(command=["vi", "a b"], cols=120, rows=40, cwd="/tmp", env={"A": "1"})
    assert server.sent() == {"command": "vi 'a b'", "cols": 120, "rows": 40, "cwd": "/tmp", "env": {"A": "1"}}


async def test_typing_counts_bytes(server, pty):
    """Each call says where it goes; long ones are cut."""
    server.reply(200, {"offset": 3})
    server.reply(200, {"offset": 3 + 32768})
    server.reply(200, {"offset": 3 + 40000})

    await pty.write("€")
    await pty.write(b"x" * 40000)

    assert typed(server, 2) == [("0", "€".encode()), ("3", b"x" * 32768), ("32771", b"x" * 7232)]


async def test_lost_reply_types_nothing_twice(server, pty):
    """The same bytes at the same place: the terminal skips what it has."""
    server.fail(httpx.ReadError("reset"))
    server.fail(httpx.ReadTimeout("silent"))
    server.reply(200, {"offset": 2})

    await pty.write("ls")

    assert typed(server, 2) == [("0", b"ls")] * 3


async def test_part_that_was_not_taken_is_typed_again(server, pty):
    """And no more than that."""
    server.reply(200, {"offset": 1})
    server.reply(200, {"offset": 2})

    await pty.write("ls")

    assert typed(server, 2) == [("0", b"ls"), ("1", b"s")]


async def test_what_others_typed_is_found_out(server, sandbox):
    """An attached terminal is asked first; one that got ahead in between takes it at its new end."""
    server.reply(200, PTY)
    pty = await sandbox.attach_pty("cmd_2")
    server.reply(200, {"offset": 10})
    server.reply(200, {"offset": 15})
    server.reply(200, {"offset": 17})

    await pty.write("ls")

    assert typed(server, 2) == [("", b""), ("10", b"ls"), ("15", b"ls")]


async def test_after_a_failure_the_place_is_asked_for(server, pty):
    """What was typed of the failed one is not known."""
    server.reply(429, {"detail": "does not read", "code": "limit_exceeded"})
    with pytest.raises(LimitExceeded):
        await pty.write("ls")
    server.reply(200, {"offset": 1})
    server.reply(200, {"offset": 2})

    await pty.write("x")

    assert typed(server, 3) == [("", b""), ("1", b"x")]


async def test_typing_gives_up(server, pty):
    """After a bounded number of tries."""
    for _ in range(6):
        server.fail(httpx.ReadError("reset"))

    with pytest.raises(ConnectionFailed):
        await pty.write("ls")


async def test_nonsense_is_a_bad_reply(server, pty):
    """A terminal that forgets would be typed into for ever."""
    server.reply(200, {"offset": 0})

    with pytest.raises(BadReply):
        await pty.write("ls")


async def test_output_goes_on_over_breaks_and_gaps(server, pty):
    """What is gone is skipped; its end is no error, however it came about."""
    server.exec(server.started, server.chunk(b"\xe2", offset=0))
    server.fail(httpx.ReadError("reset"))
    server.exec(server.started, server.chunk(b"\x82\xac$ ", offset=1), server.chunk(b"later", offset=100))
    server.reply(410, {"detail": "gone", "code": "log_dropped", "first_offset": 200})
    server.exec(
        {"kind": "exec_chunk", "stream": "stdout", "data": "", "offset": 200},
        server.chunk(b"!", offset=200),
        {"kind": "error", "code": "exec_killed", "message": "hung up", "signal": 1},
    )

    data = [data async for data in pty.output()]

    assert data == [b"\xe2", b"\x82\xac$ ", b"later", b"!"]
    assert [call.partition("offset=")[2] for call in server.calls[2:]] == ["0", "1", "1", "105", "200"]


async def test_resize_kill_wait(server, pty):
    """Size is sent as it is; killed ones have no exit code."""
    server.reply(204)
    server.reply(204)
    server.reply(200, {**PTY, "status": "exited", "exit_code": 130})
    server.reply(200, PTY)

    await pty.resize(100, 30)
    assert server.sent() == {"cols": 100, "rows": 30}
    await pty.kill()
    assert await pty.wait() == 130
    with pytest.raises(DeadlineExceeded):
        await pty.wait(timeout=0)


async def test_terminals_are_listed(server, sandbox):
    """In a tuple of their own."""
    server.reply(200, {"ptys": [PTY]})

    (pty,) = await sandbox.ptys()

    assert (pty.id, pty.command, pty.pid, pty.status, pty.exit_code) == ("cmd_2", "bash -l", 9, "running", None)
