"""Commands in a real guest: their processes, their end, and what they leave behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.server import Server
from support.wait import eventually
from terp import ExecKilled, ExecTimeout, Exited, Sandbox, Started, Stdout

pytestmark = pytest.mark.vm


def _alive(sandbox: Sandbox, pid_file: str) -> bool:
    return sandbox.exec(f"kill -0 $(cat {pid_file})").exit_code == 0


def test_stdin_reaches_the_command(shared: Sandbox) -> None:
    """What is given as stdin is read by the command, unchanged and to its end; without it there is nothing to read."""
    text = "grüße 漢字 \x00 \r\n" * 100_000

    assert shared.exec("cat").stdout == ""
    assert shared.exec("cat", stdin="").stdout == ""
    assert shared.exec("cat", stdin=text).stdout == text


def test_stdin_that_nobody_reads(shared: Sandbox) -> None:
    """A command may end without having read its input."""
    assert shared.exec("exec true", stdin="x" * 4_000_000).exit_code == 0


def test_environment_of_sandbox_and_command(server: Server) -> None:
    """The sandbox's environment is in every command, the command's goes on top, and neither is in a file."""
    with server.create(env={"SHARED": "sandbox", "SECRET": "do-not-write-me-down"}) as sandbox:
        assert sandbox.exec("echo $SHARED $OWN", env={"OWN": "command"}).stdout == "sandbox command\n"
        assert sandbox.exec("echo $SHARED", env={"SHARED": "command"}).stdout == "command\n"
        assert sandbox.exec("grep -rl do-not-write-me-down /etc /root /home /tmp /workspace /var /run").stdout == ""
    for path in server.data_dir.rglob("*"):
        if path.is_file():
            assert b"do-not-write-me-down" not in path.read_bytes(), path


def test_arguments_arrive_as_they_are(shared: Sandbox) -> None:
    """A list of arguments is not seen by any shell."""
    arguments = ["a b", "$HOME", "'", '"', "*", "new\nline", "grüße", ""]

    assert shared.exec(["printf", "%s|", *arguments]).stdout == "".join(f"{each}|" for each in arguments)


def test_timeout_ends_the_whole_group(shared: Sandbox) -> None:
    """At its timeout a command is ended with its children, also those that ignore SIGTERM; output so far is told."""
    command = "echo before; sh -c 'trap \"\" TERM; echo $$ > /tmp/child; while :; do sleep 1; done' & wait"

    with pytest.raises(ExecTimeout) as caught:
        shared.exec(command, timeout=3)

    assert caught.value.stdout == "before\n"
    eventually(lambda: not _alive(shared, "/tmp/child"))


def test_timeout_ends_what_forked_away(shared: Sandbox) -> None:
    """A process that double-forked into a session of its own is ended by the command's timeout too."""
    command = "setsid sh -c 'sh -c \"echo \\$\\$ > /tmp/away; exec sleep 1000\" &'; sleep 1000"

    with pytest.raises(ExecTimeout):
        shared.exec(command, timeout=3)

    eventually(lambda: not _alive(shared, "/tmp/away"))


def test_daemons_outlive_their_command(shared: Sandbox) -> None:
    """A process that left for a session of its own runs on when its command has ended by itself."""
    shared.exec("setsid sh -c 'echo $$ > /tmp/daemon; exec sleep 1000' > /dev/null 2>&1 < /dev/null &").check()

    eventually(lambda: shared.files.exists("/tmp/daemon") and _alive(shared, "/tmp/daemon"))
    shared.exec("kill $(cat /tmp/daemon)").check()


def test_orphans_are_reaped(shared: Sandbox) -> None:
    """Orphans are adopted and reaped by the guest's first process: no zombie stays."""
    shared.exec("for i in 1 2 3 4 5; do (setsid sleep 0.2 &) ; done").check()

    eventually(lambda: shared.exec("ps -eo stat= | grep -c '^Z'").stdout == "0\n")


def test_a_kill_is_told_with_its_signal(shared: Sandbox) -> None:
    """A command that dies by a signal raises ExecKilled with its number and what it wrote."""
    with pytest.raises(ExecKilled) as caught:
        shared.exec("echo before; kill -KILL $$")

    assert (caught.value.signal, caught.value.stdout) == (9, "before\n")


def test_stream_of_events(shared: Sandbox) -> None:
    """A stream begins with Started, carries bytes as written, and ends with Exited."""
    events = list(shared.exec_stream(r"printf 'a\377b'; exit 4"))

    assert isinstance(events[0], Started)
    assert events[0].pid > 1
    assert b"".join(event.data for event in events if isinstance(event, Stdout)) == b"a\xffb"
    assert isinstance(events[-1], Exited)
    assert events[-1].exit_code == 4


def test_slow_reader_holds_the_command_back(shared: Sandbox) -> None:
    """A reader that stops reading stops the writer, and loses nothing when it goes on."""
    size = 24 << 20
    command = f"head -c {size} /dev/zero; echo done > /tmp/written"
    shared.exec("rm -f /tmp/written").check()

    stream = shared.exec_stream(command, timeout=240)
    first = next(event for event in stream if isinstance(event, Stdout))
    assert shared.exec("sleep 2; ls /tmp").stdout.find("written") == -1
    total = len(first.data) + sum(len(event.data) for event in stream if isinstance(event, Stdout))

    assert total == size
    assert shared.files.exists("/tmp/written")


def test_twenty_commands_at_once(shared: Sandbox) -> None:
    """Twenty commands run beside each other: each waits until all twenty have begun."""
    shared.exec("rm -rf /tmp/meet; mkdir /tmp/meet").check()

    def meet(n: int) -> str:
        command = f"touch /tmp/meet/{n}; until [ $(ls /tmp/meet | wc -l) = 20 ]; do sleep 1; done; echo {n}"
        return shared.exec(command, timeout=200).stdout

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(meet, range(20))) == [f"{n}\n" for n in range(20)]


def test_creates_at_once(server: Server) -> None:
    """Sandboxes created at the same moment are all running and all different."""
    with ThreadPoolExecutor(3) as pool:
        sandboxes = list(pool.map(lambda _: server.create(), range(3)))
    try:
        names = [sandbox.exec("hostname").stdout for sandbox in sandboxes]
        assert len(set(names)) == 3
    finally:
        for sandbox in sandboxes:
            sandbox.terminate()
