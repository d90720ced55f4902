"""Commands in the background of a real guest: their logs, their end, and pauses in between."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.server import Server
from support.wait import eventually
from terp import Command, ExecKilled, ExecNotFound, Exited, LogDropped, Sandbox, StateConflict, Stdout

pytestmark = pytest.mark.vm


@pytest.fixture
def counter(shared: Sandbox) -> Iterator[Command]:
    """Writes a number a moment, for good."""
    command = shared.start("n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done")
    yield command
    command.kill()


def _log(command: Command) -> str:
    """All of it, part by part."""
    text, offset = "", 0
    while True:
        page = command.logs(offset)
        text, offset = text + page.content, page.next_offset
        if not page.truncated:
            return text


def _follow(command: Command, offset: int = 0) -> bytes:
    return b"".join(event.data for event in command.stream(offset) if isinstance(event, Stdout))


def test_output_in_the_order_it_was_written(shared: Sandbox) -> None:
    """What it writes to stdout and stderr is one log; the exit code comes with its end."""
    command = shared.start("for i in 1 2 3; do echo out$i; echo err$i >&2; done; exit 7", cwd="/tmp", env={"A": "1"})

    assert command.wait(60) == 7
    assert command.status == "exited"
    assert _log(command) == "out1\nerr1\nout2\nerr2\nout3\nerr3\n"
    assert command.info in [each.info for each in shared.commands()]


def test_text_of_any_script_and_bytes_of_none(shared: Sandbox) -> None:
    """Offsets are bytes of what was written, whatever that is."""
    command = shared.start(r"printf 'grüße 漢字 🦀 \xff\xc3 \x00 end'")
    command.wait(60)

    assert _log(command) == "grüße 漢字 🦀 ?? \0 end"
    assert command.logs(6).content.startswith("e 漢字")
    assert _follow(command) == "grüße 漢字 🦀 ".encode() + b"\xff\xc3 \x00 end"


def test_kill_ends_the_group(shared: Sandbox) -> None:
    """Also what ignores SIGTERM; again, and of one that has ended, it is nothing. The log stays."""
    polite = shared.start("echo begun; sleep 1000")
    stubborn = shared.start("trap '' TERM; echo begun; echo $$ > /tmp/stubborn; while :; do sleep 0.2; done")
    eventually(lambda: (_log(polite), _log(stubborn)) == ("begun\n", "begun\n"))

    for command in (polite, stubborn, polite):
        command.kill()
        assert (command.status, command.exit_code) == ("killed", None)
    assert shared.exec("kill -0 $(cat /tmp/stubborn)").exit_code != 0
    assert _log(stubborn) == "begun\n"
    with pytest.raises(ExecKilled):
        _follow(stubborn)


def test_nobody_holds_it_back(shared: Sandbox) -> None:
    """A command that nobody reads writes on; what is older than 64 MiB is gone, and its readers are told from where."""
    size = 80 << 20
    command = shared.start(f"head -c {size} /dev/zero | tr '\\0' x; echo end")

    assert command.wait(240) == 0
    with pytest.raises(LogDropped) as caught:
        command.logs(0)
    first = caught.value.first_offset
    assert first is not None
    assert size + 4 - (65 << 20) <= first <= size + 4 - (63 << 20)
    with pytest.raises(LogDropped):
        _follow(command, 0)
    assert _follow(command, first) == b"x" * (size - first) + b"end\n"


def test_many_follow_one(shared: Sandbox) -> None:
    """Each has every byte, also who comes late."""
    command = shared.start("seq 60000; sleep 1; seq 60000; exit 3")
    expected = "".join(f"{n}\n" for n in range(1, 60001)).encode() * 2

    with ThreadPoolExecutor(12) as threads:
        outputs = list(threads.map(_follow, [command] * 12))

    assert [len(output) for output in outputs] == [len(expected)] * 12
    assert all(output == expected for output in outputs)
    assert next(event for event in command.stream() if isinstance(event, Exited)).exit_code == 3


def test_pause_and_resume(server: Server) -> None:
    """The command and its log go on; who followed is told where to."""
    with server.create("debian-12", timeout=3600) as sandbox:
        command = sandbox.start("n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done")
        seen = b""
        with pytest.raises(StateConflict):  # noqa: PT012  the stream goes on until it comes
            for event in command.stream():
                if isinstance(event, Stdout):
                    if not seen:
                        sandbox.pause()
                    assert event.offset == len(seen)
                    seen += event.data
        sandbox.resume()
        for event in command.stream(len(seen)):
            if isinstance(event, Stdout):
                seen += event.data
                if len(seen) > 2000:
                    break
        command.kill()
        last = int(seen.decode().split("\n")[-2])

        assert seen.decode().startswith("".join(f"{n}\n" for n in range(last + 1)))
        assert _log(command).startswith(seen.decode())


def test_a_child_has_copies(server: Server, shared: Sandbox, counter: Command) -> None:
    """Commands of a fork's source go on in the child, under the same ids, each for itself."""
    eventually(lambda: counter.logs().content)
    [child] = shared.fork(1)
    with child:
        copy = child.command(counter.id)
        before = copy.logs().size
        eventually(lambda: copy.logs().size > before)
        copy.kill()

        assert copy.status == "killed"
        counter.refresh()
        assert counter.status == "running"


def test_unknown_ones(shared: Sandbox) -> None:
    with pytest.raises(ExecNotFound):
        shared.command("cmd_01JG0000000000000000000000")
