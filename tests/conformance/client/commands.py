"""Cases: commands in the background."""

from __future__ import annotations

import threading
import time

from orkestr import (
    APIError,
    BackgroundCommand,
    ExecChunk,
    ExecKilled,
    ExecTimeout,
    OrkestrError,
    Sandbox,
    SandboxNotFound,
    SandboxNotReady,
)

from expect import eventually, raises

_COUNT = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done"


def _start(sandbox: Sandbox, command: str, **options: object) -> BackgroundCommand:
    started = sandbox.exec(command, background=True, **options)
    assert isinstance(started, BackgroundCommand)
    return started


def _log(command: BackgroundCommand, offset: int = 0) -> str:
    """All of it, as the client's documentation says to go on."""
    text = ""
    while True:
        page = command.logs(offset=offset)
        text += page.content
        offset += len(page.content.encode())
        if not page.truncated:
            return text


def _text(chunks: list[ExecChunk]) -> str:
    return "".join(chunk.data for chunk in chunks)


def returns_at_once(sandbox: Sandbox) -> None:
    """The call does not wait for the command, whose handle says how it is."""
    command = _start(sandbox, "sleep 1000")
    assert (command.command, command.status, command.exit_code) == ("sleep 1000", "running", None)
    assert command.pid is not None
    assert sandbox.exec(f"kill -0 {command.pid}").exit_code == 0
    assert command.started_at is not None
    assert abs(time.time() - command.started_at.timestamp()) < 300
    command.kill()


def exit_code(sandbox: Sandbox) -> None:
    """`wait` returns it, and the handle has it then."""
    command = _start(sandbox, "sleep 0.5; exit 7")
    assert command.wait() == 7
    assert (command.status, command.exit_code) == ("exited", 7)
    assert _start(sandbox, "true").wait(poll_seconds=0.1, timeout=60) == 0


def wait_gives_up(sandbox: Sandbox) -> None:
    """At its own timeout, and the command runs on."""
    command = _start(sandbox, "sleep 1000")
    raises(ExecTimeout, lambda: command.wait(poll_seconds=0.1, timeout=0.5))
    assert command.refresh().status == "running"
    command.kill()


def cwd_and_env(sandbox: Sandbox) -> None:
    """As for other commands."""
    command = _start(sandbox, "pwd; echo $A", cwd="/tmp", env={"A": "grüße"})
    command.wait(poll_seconds=0.1)
    assert _log(command) == "/tmp\ngrüße\n"


def kill_is_told(sandbox: Sandbox) -> None:
    """Killed is not exited: there is no exit code, and `wait` returns None. Killing again succeeds."""
    command = _start(sandbox, "sleep 1000")
    for _ in range(2):
        command.kill()
        assert (command.status, command.exit_code) == ("killed", None)
    assert command.wait() is None


def kill_reaches_the_group(sandbox: Sandbox) -> None:
    """SIGTERM first, so that it may clean up; what ignores that is killed; children too."""
    polite = _start(sandbox, "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done")
    stubborn = _start(
        sandbox, "sh -c 'trap \"\" TERM HUP; echo $$ > /tmp/left; echo up; while :; do sleep 0.1; done'; true"
    )
    eventually(lambda: _log(polite) == _log(stubborn) == "up\n")
    polite.kill()
    assert (polite.status, polite.exit_code) == ("exited", 3)
    assert _log(polite).endswith("bye\n")  # the shell also tells of its child, which had the signal too
    stubborn.kill()
    assert stubborn.status == "killed"
    eventually(lambda: sandbox.exec("kill -0 $(cat /tmp/left)").exit_code != 0)


def kill_of_an_ended_one(sandbox: Sandbox) -> None:
    """It succeeds and changes nothing."""
    command = _start(sandbox, "exit 4")
    command.wait(poll_seconds=0.1)
    command.kill()
    assert (command.status, command.exit_code) == ("exited", 4)


def a_signal_from_within(sandbox: Sandbox) -> None:
    """A command that dies by a signal is killed, too."""
    command = _start(sandbox, "kill -SEGV $$")
    assert command.wait(poll_seconds=0.1) is None
    assert command.status == "killed"


def listed(sandbox: Sandbox) -> None:
    """Running and ended ones, equal to what the call returned but for what changed."""
    running, ended = _start(sandbox, "sleep 1000"), _start(sandbox, "exit 5")
    ended.wait(poll_seconds=0.1)
    found = {command.id: command for command in sandbox.commands()}
    assert found[running.id] == running
    assert found[ended.id] == ended
    assert found[ended.id].logs().content == ""
    running.kill()


def logs_are_stdout_and_stderr(sandbox: Sandbox) -> None:
    """In the order they were written."""
    command = _start(sandbox, "for i in 1 2 3; do echo out$i; echo err$i >&2; done")
    command.wait(poll_seconds=0.1)
    expected = "out1\nerr1\nout2\nerr2\nout3\nerr3\n"
    logs = command.logs()
    assert (logs.content, logs.size, logs.truncated) == (expected, len(expected), False)
    assert command.logs(offset=10).content == expected[10:]
    assert command.logs(offset=len(expected)).content == ""


def logs_while_it_runs(sandbox: Sandbox) -> None:
    """What is there so far comes at once."""
    command = _start(sandbox, "echo first; until [ -e /tmp/go_on ]; do sleep 0.1; done; echo second")
    eventually(lambda: command.logs().content == "first\n")
    assert not command.logs().truncated
    sandbox.files.write("/tmp/go_on", "")
    command.wait(poll_seconds=0.1)
    assert command.logs(offset=6).content == "second\n"


def logs_of_megabytes(sandbox: Sandbox) -> None:
    """Part by part, with offsets in bytes, and no character lost where parts meet."""
    command = _start(sandbox, "yes 漢字🦀é | head -n 300000")
    command.wait(poll_seconds=0.1)
    assert command.logs().truncated
    assert _log(command) == "漢字🦀é\n" * 300_000


def logs_of_no_text(sandbox: Sandbox) -> None:
    """Bytes that are no UTF-8 do not shift offsets."""
    command = _start(sandbox, r"printf 'a\xff\xfeb\x00\xc3'; printf '\xa9end\xe2'")
    command.wait(poll_seconds=0.1)
    logs = command.logs()
    assert len(logs.content.encode()) == logs.size == 11
    assert logs.content == "a??b\0éend?"


def follow_to_the_end(sandbox: Sandbox) -> None:
    """Chunks as they come, and a last one with the exit code."""
    command = _start(sandbox, "echo first; until [ -e /tmp/follow ]; do sleep 0.1; done; echo second; exit 5")
    stream = command.stream()
    first = next(stream)
    assert (first.data, first.is_final) == ("first\n", False)
    sandbox.files.write("/tmp/follow", "")
    rest = list(stream)
    assert _text(rest) == "second\n"
    assert (rest[-1].is_final, rest[-1].exit_code) == (True, 5)
    assert _text(list(command.stream(offset=3))) == "st\nsecond\n"


def follow_cuts_at_characters(sandbox: Sandbox) -> None:
    """No character is torn between two chunks."""
    command = _start(
        sandbox, r"for i in 1 2 3; do for b in '\xf0' '\x9f' '\xa6' '\x80'; do printf $b; sleep 0.05; done; done"
    )
    assert _text(list(command.stream())) == "🦀🦀🦀"
    big = _start(sandbox, "yes 漢字🦀é | head -n 200000")
    assert _text(list(big.stream())) == "漢字🦀é\n" * 200_000


def follow_gives_up(sandbox: Sandbox) -> None:
    """At `timeout_seconds` ExecTimeout comes behind what was written; the command runs on, and is followed again."""
    command = _start(sandbox, _COUNT)
    seen: list[ExecChunk] = []
    raises(ExecTimeout, lambda: seen.extend(command.stream(timeout_seconds=2)))
    chunks: list[ExecChunk] = []

    def follow() -> None:
        for chunk in command.stream(timeout_seconds=2):
            chunks.append(chunk)  # noqa: PERF402  what came before the error counts

    raises(ExecTimeout, follow)
    offset = len(_text(chunks).encode())
    assert offset > 0
    again = command.stream(offset=offset)
    assert next(again).data.startswith(str(_text(chunks).count("\n")))
    assert command.refresh().status == "running"
    command.kill()


def follow_of_a_killed_one(sandbox: Sandbox) -> None:
    """ExecKilled with the signal, behind what was written."""
    command = _start(sandbox, "echo begun; sleep 1000")
    stream = command.stream()
    assert next(stream).data == "begun\n"
    command.kill()
    assert raises(ExecKilled, lambda: list(stream)).signal == 15


def follow_longer_than_the_clients_patience(fresh: Sandbox) -> None:
    """A command that is silent for longer than the client's read timeout of 30 s is followed to its end."""
    assert _text(list(_start(fresh, "sleep 32; echo woke").stream())) == "woke\n"


def many_follow_one(sandbox: Sandbox) -> None:
    """Each has all of it."""
    command = _start(sandbox, "for i in $(seq 200); do seq 100; done")
    outputs: list[str] = []
    threads = [threading.Thread(target=lambda: outputs.append(_text(list(command.stream())))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == ["".join(f"{n}\n" for n in range(1, 101)) * 200] * 8


def survives_a_pause(fresh: Sandbox) -> None:
    """The command, its handle and its log go on; while it is paused, calls say SandboxNotReady."""
    command = _start(fresh, _COUNT)
    eventually(lambda: command.logs().size > 20)
    fresh.pause()
    raises(SandboxNotReady, command.refresh)
    raises(SandboxNotReady, command.logs)
    Sandbox.resume(fresh.id)
    before = command.logs().size
    eventually(lambda: command.logs().size > before)
    assert command.refresh().status == "running"
    text = _log(command)
    last = int(text.split("\n")[-2])
    assert text.startswith("".join(f"{n}\n" for n in range(last + 1)))
    command.kill()


def a_pause_ends_who_follows(fresh: Sandbox) -> None:
    """With an error that says so, and nothing is lost by it."""
    command = _start(fresh, _COUNT)
    stream = command.stream()
    text = next(stream).data
    fresh.pause()
    error = None
    try:
        for chunk in stream:
            text += chunk.data
    except OrkestrError as caught:
        error = caught
    assert error is not None
    assert "paused" in str(error)
    Sandbox.resume(fresh.id)
    rest = next(command.stream(offset=len(text))).data
    assert (text + rest).startswith("".join(f"{n}\n" for n in range(int(text.split("\n")[-2]) + 1)))
    command.kill()


def dies_with_its_sandbox() -> None:
    """Then calls say that the sandbox does not run."""
    with Sandbox.create(template="debian-12") as sbx:
        command = _start(sbx, "sleep 1000")
    raises(SandboxNotReady, command.refresh)


def unknown_command(sandbox: Sandbox) -> None:
    """SandboxNotFound, as for all that is not there."""
    command = _start(sandbox, "true")
    command.id = command.id[:-26] + "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    for call in (command.refresh, command.kill, command.logs, lambda: list(command.stream())):
        raises(SandboxNotFound, call)


def refusals(sandbox: Sandbox) -> None:
    """A wrong field is an APIError that names it."""
    assert "cwd" in str(raises(APIError, lambda: _start(sandbox, "true", cwd="nowhere")))
    assert "command" in str(raises(APIError, lambda: _start(sandbox, " ")))
    assert "timeout_seconds" in str(raises(APIError, lambda: list(_start(sandbox, "true").stream(timeout_seconds=0))))
