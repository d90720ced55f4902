# Generated from tests/_async/test_commands.py by tools/sync.py: change that one.
"""Background commands: started, followed over broken connections, waited for, ended."""

from __future__ import annotations

import httpx
import pytest

from terp import (
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    ExecKilled,
    Exited,
    LogDropped,
    Sandbox,
    SecretsInUse,
    StateConflict,
    Stdout,
    Terp,
)

RUNNING = {
    "id": "cmd_1",
    "command": "make",
    "pid": 17,
    "status": "running",
    "exit_code": None,
    "started_at": "2026-01-01T00:00:00Z",
}
ENDED = {**RUNNING, "status": "exited", "exit_code": 3}
TIMED_OUT = {"kind": "error", "code": "timed_out", "message": "still runs"}

pytestmark = pytest.mark.usefixtures("delays")


@pytest.fixture
def sandbox(server):
    with Terp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield Sandbox.create(client=client)


@pytest.fixture
def command(server, sandbox):
    server.reply(201, RUNNING)
    return sandbox.start("make")


def test_start_sends_the_command(server, sandbox):
    """Arguments are quoted; secrets go beside the environment."""
    server.reply(201, RUNNING)

    command = sandbox.start(["echo", "a b"], cwd="/tmp", env={"A": "1"}, secrets={"KEY": "s"})

    assert server.calls[-1] == f"POST /v1/sandboxes/{sandbox.id}/commands"
    assert server.sent() == {"command": "echo 'a b'", "cwd": "/tmp", "env": {"A": "1"}, "secrets": {"KEY": "s"}}
    assert (command.id, command.command, command.pid, command.status) == ("cmd_1", "make", 17, "running")


def test_start_is_never_sent_twice(server, sandbox):
    """A lost reply leaves open whether it runs."""
    server.fail(httpx.ReadError("reset"))

    with pytest.raises(ConnectionFailed):
        sandbox.start("make")


def test_secrets_of_one_command_are_sent(server, sandbox):
    """With `exec`, too, and only when there are any."""
    server.exec(server.started, server.exited())
    server.exec(server.started, server.exited())

    sandbox.exec("true", secrets={"KEY": "s"})
    sandbox.exec("true")

    assert server.sent(-2)["secrets"] == {"KEY": "s"}
    assert "secrets" not in server.sent()


def test_commands_are_found_again(server, sandbox):
    """All, or one by its id."""
    server.reply(200, {"commands": [RUNNING, ENDED]})
    server.reply(200, ENDED)

    found = sandbox.commands()
    command = sandbox.command("cmd_1")

    assert [each.status for each in found] == ["running", "exited"]
    assert command.exit_code == 3


def test_wait_returns_the_exit_code(server, command, delays):
    """It asks again, less and less often."""
    for _ in range(2):
        server.reply(200, RUNNING)
    server.reply(200, ENDED)

    assert command.wait() == 3
    assert delays == sorted(delays)
    assert len(delays) == 2


def test_wait_ends_in_time(server, command):
    """The command is left alone."""
    server.reply(200, RUNNING)

    with pytest.raises(DeadlineExceeded, match="cmd_1 still runs"):
        command.wait(timeout=0)


def test_kill_reads_how_it_ended(server, command):
    """Killed ones have no exit code."""
    server.reply(204)
    server.reply(200, {**ENDED, "status": "killed", "exit_code": None})

    command.kill()

    assert (command.status, command.exit_code) == ("killed", None)
    assert server.calls[-2].startswith("DELETE ")


def test_log_pages_count_bytes(server, command):
    """The next page begins behind what this one's text has in UTF-8."""
    server.reply(200, {"content": "ä€", "size": 9, "truncated": True})

    page = command.logs(offset=2)

    assert (page.offset, page.next_offset, page.size, page.truncated) == (2, 7, 9, True)
    assert server.calls[-1].endswith("/commands/cmd_1/logs?offset=2")


def test_log_begins_with_what_is_kept(server, command):
    """Unless a place was asked for: then its loss is an error."""
    dropped = {"detail": "gone", "code": "log_dropped", "first_offset": 100}
    server.reply(410, dropped)
    server.reply(200, {"content": "x", "size": 101, "truncated": False})
    server.reply(410, dropped)

    page = command.logs()
    with pytest.raises(LogDropped) as caught:
        command.logs(offset=0)

    assert (page.offset, page.next_offset) == (100, 101)
    assert caught.value.first_offset == 100


def test_stream_goes_on_where_it_broke(server, command):
    """Nothing is lost, nothing comes twice, also in the midst of a character; time limits of a request are no end."""
    euro = "€".encode()
    server.exec(server.started, server.chunk(b"ab", offset=0), server.chunk(euro[:1], offset=2))
    server.fail(httpx.ReadError("reset"))
    server.exec(server.started, server.chunk(b"b" + euro, offset=1), TIMED_OUT)
    server.reply(503, {"detail": "restarts", "code": "unavailable"})
    server.exec(server.started, server.chunk(b"!", offset=5), server.exited(3))

    events = [event for event in command.stream()]

    assert b"".join(event.data for event in events if isinstance(event, Stdout)) == b"ab" + euro + b"!"
    assert "".join(event.text for event in events if isinstance(event, Stdout)) == "ab€!"
    assert [event.exit_code for event in events if isinstance(event, Exited)] == [3]
    offsets = [call.partition("offset=")[2].partition("&")[0] for call in server.calls[2:]]
    assert offsets == ["0", "3", "3", "5", "5"]


def test_stream_gives_up_when_nothing_comes(server, command, delays):
    """After a bounded number of tries."""
    for _ in range(6):
        server.exec(server.started)

    with pytest.raises(ConnectionFailed):
        for _ in command.stream():
            pass

    assert len(delays) == 5


def test_progress_makes_tries_count_anew(server, command):
    """A connection that breaks often is no dead one."""
    for offset in range(10):
        server.exec(server.started, server.chunk(b"x", offset=offset))
    server.exec(server.started, server.exited())

    events = [event for event in command.stream()]

    assert sum(len(event.data) for event in events if isinstance(event, Stdout)) == 10


def test_stream_never_skips(server, command):
    """Where output is gone, that is said."""
    server.exec(server.started, server.chunk(b"later", offset=7))

    with pytest.raises(LogDropped) as caught:
        for _ in command.stream():
            pass

    assert caught.value.first_offset == 7


def test_stream_tells_of_a_death(server, command):
    """By signal there is no exit code."""
    server.exec(server.started, {"kind": "error", "code": "exec_killed", "message": "killed", "signal": 15})

    with pytest.raises(ExecKilled):
        for _ in command.stream():
            pass


def test_stream_ends_with_a_pause(server, command):
    """Its caller decides whether to resume."""
    server.exec(server.started, {"kind": "error", "code": "state_conflict", "message": "was paused", "offset": 0})

    with pytest.raises(StateConflict):
        for _ in command.stream():
            pass


def test_misshapen_replies(server, sandbox):
    """Whatever comes, what comes out is ours."""
    for body in ({}, {"id": "cmd_1", "pid": "x"}, {"id": "cmd_1", "started_at": 5}):
        server.reply(201, body)
        with pytest.raises(BadReply):
            sandbox.start("make")
    server.reply(200, {"commands": {}})
    with pytest.raises(BadReply):
        sandbox.commands()


def test_variables_are_set_and_unset(server, sandbox):
    """Names come back, values never."""
    server.reply(200, {"names": ["A", "B"]})
    server.reply(200, {"names": ["B"]})
    server.reply(200, {"names": ["B"]})

    assert sandbox.env.set({"A": "1"}, B="2") == ("A", "B")
    assert server.sent() == {"set": {"A": "1", "B": "2"}, "unset": []}
    assert sandbox.env.unset("A") == ("B",)
    assert server.sent() == {"set": {}, "unset": ["A"]}
    assert sandbox.env.list() == ("B",)
    assert [call.split()[0] for call in server.calls[1:]] == ["PATCH", "PATCH", "GET"]


def test_secrets_are_left_out_of_what_is_saved_unless_asked_for(server, sandbox):
    """And a command that holds some is a reason of its own."""
    server.reply(201, server.snapshot)
    server.reply(201, server.snapshot)
    server.reply(200, {"sandboxes": [server.sandbox]})
    server.reply(409, {"detail": "cmd_1 runs", "code": "secrets_in_use"})

    sandbox.snapshot()
    assert "include_secrets" not in server.sent()
    sandbox.snapshot(include_secrets=True)
    assert server.sent()["include_secrets"] is True
    sandbox.fork(include_secrets=True)
    assert server.sent()["include_secrets"] is True
    with pytest.raises(SecretsInUse):
        sandbox.fork()
