"""Cases: commands, buffered and streamed."""

from __future__ import annotations

import threading
import time

from orkestr import ExecChunk, ExecKilled, ExecTimeout, Sandbox

from expect import eventually, raises


def _text(chunks: list[ExecChunk], stream: str) -> str:
    return "".join(chunk.data for chunk in chunks if chunk.stream == stream)


def streams_and_exit_code(sandbox: Sandbox) -> None:
    """stdout, stderr and the exit code come back apart; a non-zero exit is a result."""
    result = sandbox.exec("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert result.duration_ms >= 0
    assert sandbox.exec("true").exit_code == 0
    assert sandbox.exec("no-such-program").exit_code == 127
    assert sandbox.exec("if then").exit_code == 2


def duration_is_the_commands(sandbox: Sandbox) -> None:
    """The duration covers the command."""
    assert sandbox.exec("sleep 0.5").duration_ms >= 490


def default_directory_and_cwd(sandbox: Sandbox) -> None:
    """Commands run in /workspace, or where they are told to."""
    assert sandbox.exec("pwd").stdout == "/workspace\n"
    assert sandbox.exec("pwd", cwd="/usr/lib").stdout == "/usr/lib\n"


def env_is_layered() -> None:
    """A command's environment is the sandbox's with its own on top, and both reach child processes only once."""
    with Sandbox.create(template="debian-12", env={"A": "sandbox", "B": "sandbox"}) as sbx:
        result = sbx.exec('echo "$A $B $C"; env | grep -c ^B=', env={"B": "command", "C": "a b'\"$HOME\n2"})
        assert result.stdout == "sandbox command a b'\"$HOME\n2\n1\n"
        assert sbx.exec('echo "$A $B $C"').stdout == "sandbox sandbox \n"


def shell_is_real(sandbox: Sandbox) -> None:
    """Pipes, quotes, here documents and loops work: the command is a shell's."""
    result = sandbox.exec("for i in 1 2 3; do echo \"n=$i\"; done | tac | head -n 1; cat <<'E'\n$x `y`\nE")
    assert result.stdout == "n=3\n$x `y`\n"


def unicode_round_trip(sandbox: Sandbox) -> None:
    """Text of any script goes in and comes out unchanged, line separators of JSON's nightmares included."""
    text = "grüße 漢字 🦀 \u2028 \u2029 \u0085 \x1b[0m"
    assert sandbox.exec(f"printf %s '{text}'").stdout == text
    assert sandbox.exec(f"printf %s '{text}' >&2").stderr == text
    assert _text(list(sandbox.exec_stream(f"printf %s '{text}'")), "stdout") == text


def non_utf8_output(sandbox: Sandbox) -> None:
    """Bytes that are no UTF-8 become replacement characters and never an error, NUL bytes stay."""
    result = sandbox.exec(r"printf 'a\xff\xfe\x00b\xc3'")
    assert result.stdout.startswith("a\ufffd")
    assert "\x00b" in result.stdout
    chunks = list(sandbox.exec_stream(r"printf 'a\xff\xfe\x00b\xc3'"))
    assert "\x00b" in _text(chunks, "stdout")
    assert chunks[-1].exit_code == 0


def output_of_some_megabytes(sandbox: Sandbox) -> None:
    """4 MiB of output arrive whole, buffered and streamed."""
    command = "head -c 4194304 /dev/zero | tr '\\0' x"
    assert sandbox.exec(command).stdout == "x" * 4194304
    assert _text(list(sandbox.exec_stream(command)), "stdout") == "x" * 4194304


def stdin_is_empty(sandbox: Sandbox) -> None:
    """A command that reads its input finds the end of it."""
    assert sandbox.exec("cat; read x; echo $?").stdout == "1\n"


def timeout_raises(sandbox: Sandbox) -> None:
    """A command that outlives its timeout is stopped and ExecTimeout comes, buffered and streamed."""
    raises(ExecTimeout, lambda: sandbox.exec("echo $$ > /tmp/slow; exec sleep 1000", timeout_seconds=2))
    eventually(lambda: sandbox.exec("kill -0 $(cat /tmp/slow)").exit_code != 0)
    seen: list[ExecChunk] = []
    raises(ExecTimeout, lambda: seen.extend(sandbox.exec_stream("sleep 1000", timeout_seconds=2)))


def timeout_delivers_what_came_before(sandbox: Sandbox) -> None:
    """Output before a stream's timeout has arrived when the error comes."""
    seen: list[ExecChunk] = []

    def run() -> None:
        for chunk in sandbox.exec_stream("echo early; sleep 1000", timeout_seconds=3):
            seen.append(chunk)  # noqa: PERF402  what came before the error counts

    raises(ExecTimeout, run)
    assert _text(seen, "stdout") == "early\n"


def timeout_is_polite_first(sandbox: Sandbox) -> None:
    """At the timeout a command gets SIGTERM and may clean up."""
    raises(
        ExecTimeout,
        lambda: sandbox.exec("trap 'echo bye > /tmp/polite; exit 0' TERM; sleep 1000 & wait", timeout_seconds=2),
    )
    assert eventually(lambda: sandbox.files.exists("/tmp/polite"))


def killed_carries_the_signal(sandbox: Sandbox) -> None:
    """A command that dies by a signal raises ExecKilled with its number."""
    assert raises(ExecKilled, lambda: sandbox.exec("kill -SEGV $$")).signal == 11
    assert raises(ExecKilled, lambda: sandbox.exec("kill -9 $$")).signal == 9
    assert raises(ExecKilled, lambda: list(sandbox.exec_stream("kill -9 $$"))).signal == 9


def longer_than_the_clients_patience(fresh: Sandbox) -> None:
    """
    Silent commands longer than the client's read timeout of 30 s come to their end.

    A buffered call has its status then already, and this client looks for errors in the status alone: so a late
    timeout is exit code 124, as timeout(1) has it. In a stream it is ExecTimeout as ever.
    """
    outcomes: dict[str, object] = {}

    def run(name: str, command: str, timeout_seconds: int) -> None:
        try:
            result = fresh.exec(command, timeout_seconds=timeout_seconds)
            outcomes[name] = (result.stdout, result.exit_code)
        except Exception as error:  # noqa: BLE001  it is the outcome
            outcomes[name] = type(error)

    def stream(name: str, command: str, timeout_seconds: int) -> None:
        try:
            chunks = list(fresh.exec_stream(command, timeout_seconds=timeout_seconds))
            outcomes[name] = (_text(chunks, "stdout"), chunks[-1].exit_code)
        except Exception as error:  # noqa: BLE001  it is the outcome
            outcomes[name] = type(error)

    threads = [
        threading.Thread(target=run, args=("success", "sleep 32; echo woke", 60)),
        threading.Thread(target=run, args=("timeout", "echo early; sleep 1000", 32)),
        threading.Thread(target=stream, args=("stream", "sleep 32; echo streamed", 60)),
        threading.Thread(target=stream, args=("stream timeout", "sleep 1000", 32)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {
        "success": ("woke\n", 0),
        "timeout": ("early\n", 124),
        "stream": ("streamed\n", 0),
        "stream timeout": ExecTimeout,
    }, outcomes


def stream_delivers_as_it_comes(sandbox: Sandbox) -> None:
    """Chunks arrive while the command runs: it waits for an answer to what was streamed."""
    sandbox.exec("rm -f /tmp/go")
    stream = sandbox.exec_stream("echo first; until [ -e /tmp/go ]; do sleep 0.1; done; echo second >&2; exit 5")
    first = next(stream)
    assert (first.stream, first.data, first.is_final) == ("stdout", "first\n", False)
    sandbox.files.write("/tmp/go", "")
    rest = list(stream)
    assert _text(rest, "stderr") == "second\n"
    assert [chunk.is_final for chunk in rest] == [False] * (len(rest) - 1) + [True]
    final = rest[-1]
    assert (final.exit_code, final.data) == (5, "")
    assert final.duration_ms is not None
    assert final.duration_ms > 0


def stream_keeps_the_order(sandbox: Sandbox) -> None:
    """Within a stream nothing is reordered, lost or doubled."""
    chunks = list(sandbox.exec_stream("for i in $(seq 2000); do echo $i; echo e$i >&2; done"))
    assert _text(chunks, "stdout") == "".join(f"{n}\n" for n in range(1, 2001))
    assert _text(chunks, "stderr") == "".join(f"e{n}\n" for n in range(1, 2001))


def stream_cuts_at_characters(sandbox: Sandbox) -> None:
    """A character whose bytes are written one by one is never torn between two chunks."""
    command = r"for i in 1 2 3; do for b in '\xf0' '\x9f' '\xa6' '\x80'; do printf $b; sleep 0.05; done; done"
    assert _text(list(sandbox.exec_stream(command)), "stdout") == "🦀🦀🦀"
    big = "yes 漢字🦀 | head -c 1500000"
    assert "\ufffd" not in _text(list(sandbox.exec_stream(big)), "stdout")[:-1]


def early_break_leaves_it_running(sandbox: Sandbox) -> None:
    """A client that leaves a stream early does not end the command."""
    sandbox.exec("rm -f /tmp/finished")
    for chunk in sandbox.exec_stream("echo begun; sleep 2; echo still here; touch /tmp/finished"):
        assert chunk.data == "begun\n"
        break
    assert eventually(lambda: sandbox.files.exists("/tmp/finished"))


def many_at_once(sandbox: Sandbox) -> None:
    """Commands of one sandbox run beside each other: each waits until all have begun."""
    sandbox.exec("rm -rf /tmp/meet; mkdir /tmp/meet")
    results: list[str] = []

    def run(n: int) -> None:
        command = f"touch /tmp/meet/{n}; until [ $(ls /tmp/meet | wc -l) = 6 ]; do sleep 0.2; done; echo {n}"
        results.append(sandbox.exec(command, timeout_seconds=60).stdout)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{n}\n" for n in range(6)]


def background_process_survives_its_command(sandbox: Sandbox) -> None:
    """What a command put into a session of its own goes on when the command has ended."""
    began = time.monotonic()
    sandbox.exec("rm -f /tmp/daemon; setsid sh -c 'sleep 3; touch /tmp/daemon' >/dev/null 2>&1 &")
    assert time.monotonic() >= began
    assert eventually(lambda: sandbox.files.exists("/tmp/daemon"))
