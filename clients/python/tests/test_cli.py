"""The command line as its users meet it: a process with arguments, streams, signals and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from terp.cli.app import app

ID = "sbx_01JG0000000000000000000000"


class Terp:
    """Starts `terp` against the wire server."""

    def __init__(self, url: str) -> None:
        self._env = {**os.environ, "TERP_API_KEY": "k", "TERP_BASE_URL": url, "COLUMNS": "200"}

    def start(self, *args: str, **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "terp.cli.main", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self._env, **options.get("env", {})},
        )

    def __call__(self, *args: str, stdin: bytes = b"", **options: object) -> subprocess.CompletedProcess[bytes]:
        process = self.start(*args, **options)
        out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.fixture
def terp(wire) -> Terp:
    return Terp(wire.url)


@pytest.fixture
def running(wire) -> Callable[..., Callable[[object], None]]:
    """A reply: the event stream of a command."""

    def stream(*frames: object) -> Callable[[object], None]:
        def reply(peer) -> None:
            peer.head()
            peer.chunk(wire.sse(wire.started, *frames))
            peer.end()

        return reply

    return stream


def test_run_passes_everything_through(wire, terp, play, running, tmp_path: Path) -> None:
    """Bytes as they are on both streams, arguments quoted, the exit code, and the sandbox ended."""
    script = tmp_path / "my script.py"
    script.write_bytes(b"print(1)")
    frames = [wire.chunk(b"\xff\x00out"), wire.chunk(b"err", "stderr"), wire.exited(7)]
    seen = play(
        ("POST /v1/sandboxes ", wire.sandbox),
        ("PUT ", {}),
        ("POST ", running(*frames)),
        (f"DELETE /v1/sandboxes/{ID} ", {}),
    )

    done = terp("run", "-t", "python-3.12", "-e", "A=1", "--timeout", "70", str(script), "--x", "a b")

    assert (done.returncode, done.stdout, done.stderr) == (7, b"\xff\x00out", b"err")
    created, command = json.loads(seen[0][1]), json.loads(seen[2][1])
    assert (created["timeout_seconds"], created["env"]) == (100, {"A": "1"})
    assert "path=/workspace/my%20script.py&mode=493" in seen[1][0]
    assert seen[1][1] == b"print(1)"
    assert command["command"] == "python '/workspace/my script.py' --x 'a b'"
    assert command["timeout_seconds"] == 70


def test_run_reads_a_script_from_stdin_and_keeps(wire, terp, play, running) -> None:
    """Its #! line says how to run it; with --keep the id is told and nothing is ended."""
    seen = play(("POST ", wire.sandbox), ("PUT ", {}), ("POST ", running(wire.exited())))

    done = terp("run", "--keep", "-", stdin=b"#!/bin/sh\n")

    assert done.returncode == 0
    assert ID.encode() in done.stderr
    assert json.loads(seen[2][1])["command"] == "/workspace/stdin"


@pytest.mark.parametrize(
    ("frame", "code"),
    [({"code": "exec_timeout", "message": "took 60 s"}, 124), ({"code": "exec_killed", "signal": 9}, 137)],
)
def test_run_ends_the_sandbox_of_a_command_that_was_ended(wire, terp, play, running, tmp_path, frame, code) -> None:
    """As timeout(1) and a shell would report it."""
    (tmp_path / "a.sh").write_text("true")
    play(("POST ", wire.sandbox), ("PUT ", {}), ("POST ", running({"kind": "error", **frame})))
    play(("DELETE ", {}))

    done = terp("run", str(tmp_path / "a.sh"))

    assert done.returncode == code
    assert done.stderr.startswith(b"terp: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_the_sandbox(wire, terp, play, tmp_path, number) -> None:
    """Ctrl-C leaves nothing behind."""
    (tmp_path / "a.py").write_text("")
    started = wire.event()

    def hang(peer) -> None:
        peer.head()
        peer.chunk(wire.sse(wire.started))
        started.set()
        assert peer.left()

    play(("POST ", wire.sandbox), ("PUT ", {}), ("POST ", hang))
    ended = play((f"DELETE /v1/sandboxes/{ID} ", {}))
    process = terp.start("run", str(tmp_path / "a.py"))
    assert started.wait(60)

    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert len(ended) == 1


def test_interrupt_while_creating_waits_for_the_sandbox_and_ends_it(wire, terp, play, tmp_path) -> None:
    """A sandbox whose id nobody learned could not be ended."""
    (tmp_path / "a.py").write_text("")
    asked, interrupted = wire.event(), wire.event()

    def slow(peer) -> None:
        asked.set()
        assert interrupted.wait(60)
        peer.reply(wire.sandbox)

    seen = play(("POST /v1/sandboxes ", slow), (f"DELETE /v1/sandboxes/{ID} ", {}))
    process = terp.start("run", str(tmp_path / "a.py"))
    assert asked.wait(60)

    process.send_signal(signal.SIGINT)
    assert b"will be terminated" in process.stderr.readline()
    interrupted.set()
    process.communicate(timeout=60)

    assert process.returncode == 130
    assert len(seen) == 2


def test_exec_hands_stdin_over_and_passes_the_code_on(wire, terp, play, running) -> None:
    """Several arguments reach the program as they are."""
    seen = play(("GET ", wire.sandbox), ("POST ", running(wire.chunk(b"out"), wire.exited(3))))

    done = terp("exec", ID, "--", "grep", "-c", "a b", stdin=b"in")

    assert (done.returncode, done.stdout) == (3, b"out")
    body = json.loads(seen[1][1])
    assert (body["command"], body["stdin"]) == ("grep -c 'a b'", "in")


def test_exec_takes_one_argument_for_a_shell_line(wire, terp, play, running) -> None:
    """Pipes and variables work."""
    seen = play(("GET ", wire.sandbox), ("POST ", running(wire.exited())))

    terp("exec", ID, "ls | wc")

    assert json.loads(seen[1][1])["command"] == "ls | wc"


def test_reader_that_leaves_is_no_traceback(wire, terp, play) -> None:
    """`terp exec … | head` ends as other programs do."""

    def endless(peer) -> None:
        peer.head()
        with contextlib.suppress(ConnectionError):
            while True:
                peer.chunk(wire.sse(wire.chunk(b"x" * 60000)))

    play(("GET ", wire.sandbox), ("POST ", endless))
    with terp.start("exec", ID, "yes") as process:
        process.stdin.close()
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        err = process.stderr.read()

    assert process.returncode == 1
    assert err == b""


def test_ls_writes_a_table_or_json(wire, terp, play) -> None:
    """Data goes to stdout alone; ids are never cut."""
    page, empty = {"sandboxes": [wire.sandbox]}, {"sandboxes": []}
    old = {**wire.sandbox, "id": "sbx_2", "status": "paused", "created_at": "2025-01-01T00:00:00Z"}
    play(
        ("GET /v1/sandboxes?limit=200&status=starting", empty),
        ("GET /v1/sandboxes?limit=200&status=running", {"sandboxes": [old, wire.sandbox]}),
        *[(f"GET /v1/sandboxes?limit=200&status={status}", empty) for status in ("pausing", "paused", "resuming")],
    )
    play(("GET /v1/sandboxes?limit=200&metadata%5Ba%5D=b ", page))

    table, listed = terp("ls"), terp("ls", "--all", "-m", "a=b", "--json")

    assert [line.split()[0] for line in table.stdout.decode().splitlines()] == ["ID", ID, "sbx_2"]
    assert json.loads(listed.stdout)[0]["id"] == ID
    assert (table.stderr, listed.stderr) == (b"", b"")


def test_create_prints_the_id(wire, terp, play) -> None:
    """For the next command of a shell script."""
    play(("POST ", wire.sandbox))

    assert terp("create").stdout.decode() == f"{ID}\n"


def test_create_from_a_snapshot(wire, terp, play) -> None:
    """Options that the snapshot does not bring along go with it."""
    seen = play(("POST ", wire.sandbox))

    terp("create", "--snapshot", "snap_1", "--on-timeout", "pause", "--auto-resume")

    body = json.loads(seen[0][1])
    assert (body["snapshot"], body["on_timeout"], body["auto_resume"]) == ("snap_1", "pause", True)
    assert not {"template", "size", "network"} & set(body)


def test_pause_and_resume(wire, terp, play) -> None:
    """Ids go to stdout for the next command, what it came to goes to stderr; with --json nothing does."""
    paused = {"sandbox_id": ID, "stored_bytes": 5000000, "dirty_bytes": 9000000, "stopped_ms": 41.5}
    for _ in range(2):
        play(("GET ", wire.sandbox), (f"POST /v1/sandboxes/{ID}/pause ", paused))
    play(("GET ", wire.sandbox), (f"POST /v1/sandboxes/{ID}/resume ", wire.sandbox))

    told, as_json, resumed = terp("pause", ID), terp("pause", ID, "--json"), terp("resume", ID)

    assert told.stdout.decode() == resumed.stdout.decode() == f"{ID}\n"
    assert told.stderr.startswith(b"terp: saved 5.0 MB; 9.0 MB of its memory had changed")
    assert json.loads(as_json.stdout) == {"stored_bytes": 5000000, "dirty_bytes": 9000000, "stopped_ms": 41.5}
    assert as_json.stderr == resumed.stderr == b""


def test_refused_pause_is_told(wire, terp, play) -> None:
    """Nothing on stdout: a script must not take it for paused."""
    cap = {"detail": "No more paused sandboxes", "code": "snapshot_cap_reached"}
    play(("GET ", wire.sandbox), ("POST ", lambda peer: peer.reply(cap, "409 Conflict")))

    done = terp("pause", ID)

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"terp: No more paused sandboxes [snapshot_cap_reached]\n"


def test_fork_prints_the_children(wire, terp, play) -> None:
    """One id a line."""
    children = [{**wire.sandbox, "id": f"sbx_{n}"} for n in (1, 2)]
    seen = play(("GET ", wire.sandbox), (f"POST /v1/sandboxes/{ID}/fork ", {"sandboxes": children}))

    done = terp("fork", ID, "-n", "2", "-e", "A=1", "-m", "b=c", "--timeout", "60")

    assert done.stdout == b"sbx_1\nsbx_2\n"
    body = json.loads(seen[1][1])
    assert (body["count"], body["env"], body["metadata"], body["timeout_seconds"]) == (2, {"A": "1"}, {"b": "c"}, 60)


def test_snapshots(wire, terp, play) -> None:
    """Taken, listed, deleted; a failure does not keep the others."""
    snapshot = wire.snapshot["id"]
    seen = play(("GET ", wire.sandbox), (f"POST /v1/sandboxes/{ID}/snapshots ", wire.snapshot))
    for _ in range(2):
        play(("GET /v1/sandboxes/snapshots ", {"snapshots": [wire.snapshot]}))
    play(
        ("GET ", lambda peer: peer.reply({"detail": "no such", "code": "snapshot_not_found"}, "404 Not Found")),
        (f"GET /v1/sandboxes/snapshots/{snapshot} ", wire.snapshot),
        (f"DELETE /v1/sandboxes/snapshots/{snapshot} ", {}),
    )

    taken = terp("snapshot", "create", ID, "--name", "after setup")
    table, listed = terp("snapshot", "ls"), terp("snapshot", "ls", "--json")
    gone = terp("snapshot", "rm", "snap_1", snapshot)

    assert taken.stdout.decode() == f"{snapshot}\n"
    assert b"stood still for 12 ms" in taken.stderr
    assert json.loads(seen[1][1]) == {"name": "after setup"}
    assert table.stdout.decode().splitlines()[1].split()[:4] == [snapshot, "ready", "python-3.12", "5.0"]
    assert json.loads(listed.stdout)[0]["stored_bytes"] == 5000000
    assert (gone.returncode, gone.stdout.decode()) == (1, f"{snapshot}\n")
    assert gone.stderr == b"terp: snap_1: no such [snapshot_not_found]\n"


def test_attach_passes_the_rest_through(wire, terp, play) -> None:
    """From the offset on, with the command's exit code."""

    def rest(peer) -> None:
        peer.head()
        peer.chunk(wire.sse(wire.chunk(b"rest", offset=7), wire.exited(3)))
        peer.end()

    play(("GET ", wire.sandbox), (f"GET /v1/sandboxes/{ID}/exec/cmd_1?offset=7 ", rest))

    done = terp("attach", ID, "cmd_1", "--offset", "7")

    assert (done.returncode, done.stdout, done.stderr) == (3, b"rest", b"")


@pytest.mark.parametrize(
    "end", [(), ({"kind": "error", "code": "state_conflict", "message": "the sandbox was paused"},)]
)
def test_broken_exec_says_how_to_follow_it(wire, terp, play, running, end) -> None:
    """The command is not lost when its connection is, or when its sandbox is paused."""
    play(("GET ", wire.sandbox), ("POST ", running(wire.chunk(b"12", offset=0), wire.chunk(b"345", offset=2), *end)))

    done = terp("exec", ID, "make")

    assert (done.returncode, done.stdout) == (1, b"12345")
    assert f"terp attach {ID} {wire.started['command_id']} --offset 5\n" in done.stderr.decode()


def test_interrupted_exec_says_how_to_follow_it(wire, terp, play) -> None:
    """Ctrl-C leaves the command running."""
    started = wire.event()

    def hang(peer) -> None:
        peer.head()
        peer.chunk(wire.sse(wire.started, wire.chunk(b"x", offset=0)))
        started.set()
        assert peer.left()

    play(("GET ", wire.sandbox), ("POST ", hang))
    with terp.start("exec", ID, "make") as process:
        process.stdin.close()
        assert started.wait(60)
        assert process.stdout.read(1) == b"x"
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()

    assert process.returncode == 130
    assert b"--offset 1\n" in err


CONNECTION = {
    "id": "2",
    "at": "2026-01-01T00:00:00.500Z",
    "protocol": "tls",
    "name": "a.example",
    "address": None,
    "port": 443,
    "decision": "blocked",
    "reason": "name_not_allowed",
    "bytes_out": 517,
    "bytes_in": 0,
    "duration_ms": 3,
    "credential": None,
}
TRAFFIC = {"bytes_out": 2000000, "bytes_in": 0, "connections": 7, "blocked": 1}


def test_create_with_a_network(wire, terp, play) -> None:
    """Naming hosts is enough."""
    seen = play(("POST ", wire.sandbox))

    terp("create", "--allow", "a.example", "--allow", "b.example", "--report-only", "--public-previews")

    body = json.loads(seen[0][1])
    assert (body["network"], body["allow_domains"]) == ("restricted", ["a.example", "b.example"])
    assert (body["report_only"], body["preview_auth"]) == (True, False)


def test_run_with_a_network(wire, terp, play, running, tmp_path: Path) -> None:
    """The script reaches what is named, and no more."""
    (tmp_path / "a.sh").write_text("true")
    seen = play(("POST ", wire.sandbox), ("PUT ", {}), ("POST ", running(wire.exited())), ("DELETE ", {}))

    done = terp("run", "--network", "restricted", "--allow", "a.example", str(tmp_path / "a.sh"))

    assert done.returncode == 0
    body = json.loads(seen[0][1])
    assert (body["network"], body["allow_domains"]) == ("restricted", ["a.example"])


def test_egress_is_listed_like_a_log(wire, terp, play) -> None:
    """The latest last; what it came to on stderr."""
    older = {**CONNECTION, "id": "1", "decision": "allowed", "name": "old\x1b.example", "credential": "KEY"}
    page = {"connections": [CONNECTION, older], "traffic": TRAFFIC, "next_cursor": None}
    path = f"GET /v1/sandboxes/{ID}/egress"
    play(("GET ", wire.sandbox), (f"{path}?limit=200 ", page), (f"{path}?limit=1 ", page))
    play(("GET ", wire.sandbox), (f"{path}?limit=200&decision=blocked ", page))

    log, as_json = terp("egress", ID), terp("egress", ID, "--blocked", "--limit", "1", "--json")

    first, last = log.stdout.decode().splitlines()
    assert first.split()[1] == "allowed"
    assert first.endswith("old\N{REPLACEMENT CHARACTER}.example:443  secret: KEY")
    assert last.split() == [
        *("2026-01-01T00:00:00Z", "blocked", "name_not_allowed", "tls", "517", "0", "a.example:443"),
    ]
    assert log.stderr == b"terp: since its start: 7 let through, 1 blocked, 2000000 bytes out, 0 in\n"
    assert [row["id"] for row in json.loads(as_json.stdout)] == ["2"]
    assert as_json.stderr == b""


@pytest.mark.parametrize("known", [1, 30])
def test_egress_is_followed_to_the_sandbox_s_end(wire, terp, play, known) -> None:
    """Each connection once, in the order of their ends; more pages are not asked for when nothing in them is new."""
    first = [{**CONNECTION, "id": f"{n:03}"} for n in range(known, 0, -1)]
    late = {**CONNECTION, "id": f"{known - 1:03}+"}
    fresh = [{**CONNECTION, "id": "999"}, first[0], late]
    path = f"GET /v1/sandboxes/{ID}/egress?limit=200&decision=blocked "
    page = {"traffic": TRAFFIC, "next_cursor": "older" if known > 20 else None}
    play(
        ("GET ", wire.sandbox),
        (path, {**page, "connections": first}),
        ("GET ", {**wire.sandbox, "status": "terminated"}),
        (path, {**page, "connections": fresh + first[1:]}),
    )

    done = terp("egress", ID, "--blocked", "--follow", "--limit", "1", "--json")

    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [first[0]["id"], late["id"], "999"]


@pytest.mark.parametrize(
    ("args", "sent", "told"),
    [
        (["--allow", "a.example"], {"allow_domains": ["a.example"]}, "restricted: a.example"),
        (["--allow-default", "--enforce"], {"allow_domains": None, "report_only": False}, "restricted: the server's"),
        (["--allow-nothing", "--report-only"], {"allow_domains": [], "report_only": True}, "restricted: nothing; the"),
        (["--network", "open"], {"network": "open"}, "open: all public addresses"),
    ],
)
def test_network_is_set(wire, terp, play, args, sent, told) -> None:
    """What is not given is not sent."""
    answer = {"network": "restricted", "allow_domains": ["a.example"], "report_only": False, **sent}
    seen = play(("GET ", wire.sandbox), (f"PATCH /v1/sandboxes/{ID}/network ", answer))

    done = terp("network", "set", ID, *args)

    assert json.loads(seen[1][1]) == sent
    assert done.stdout.decode() == f"{ID}\n"
    assert done.stderr.decode().startswith(f"terp: {told}")


def test_url_is_all_that_a_browser_needs(wire, terp, play) -> None:
    """Address and token."""
    sandbox = {**wire.sandbox, "preview_auth_token": "t0ken"}
    play(("GET ", sandbox), (f"GET /v1/sandboxes/{ID}/host?port=8000 ", {"host": "8000-x.localhost"}))

    done = terp("url", ID, "8000")

    port = wire.url.rpartition(":")[2]
    assert done.stdout.decode() == f"http://8000-x.localhost:{port}/?terp_preview_token=t0ken\n"


def test_rm_goes_on_after_a_failure(wire, terp, play) -> None:
    """Each id is told: the removed on stdout, the others on stderr."""
    play(
        ("GET ", lambda peer: peer.reply({"detail": "no \x1b such", "code": "sandbox_not_found"}, "404 Not Found")),
        ("GET ", wire.sandbox),
        ("DELETE ", {}),
    )

    done = terp("rm", "sbx_1", ID)

    assert done.returncode == 1
    assert done.stdout.decode() == f"{ID}\n"
    assert done.stderr.decode() == "terp: sbx_1: no \N{REPLACEMENT CHARACTER} such [sandbox_not_found]\n"


def test_cp_in_and_out(wire, terp, play, tmp_path) -> None:
    """Into a directory the name is kept; out of it the file appears whole, with its mode."""
    stat = {"exists": True, "size": 1, "modified_at": "2026-01-01T00:00:00Z"}
    directory = {**stat, "is_dir": True, "mode": 0o755}
    local = tmp_path / "a.csv"
    local.write_bytes(b"a,b")

    def content(peer) -> None:
        peer.head()
        peer.chunk(b"c,d")
        peer.end()

    sent = play(("GET ", wire.sandbox), ("GET ", directory), ("GET ", directory), ("PUT ", {}))
    play(("GET ", wire.sandbox), ("GET ", {**stat, "is_dir": False, "mode": 0o755}), ("GET ", content))

    into = terp("cp", str(local), f"{ID}:/workspace")
    out = terp("cp", f"{ID}:/workspace/b.csv", str(tmp_path))

    assert (into.returncode, out.returncode) == (0, 0), into.stderr + out.stderr
    assert "path=/workspace/a.csv&" in sent[3][0]
    assert sent[3][1] == b"a,b"
    assert (tmp_path / "b.csv").read_bytes() == b"c,d"
    assert (tmp_path / "b.csv").stat().st_mode & 0o100


def test_broken_download_leaves_the_old_file(wire, terp, play, tmp_path) -> None:
    """And nothing beside it."""
    stat = {"exists": True, "is_dir": False, "mode": 420, "size": 1, "modified_at": "2026-01-01T00:00:00Z"}
    old = tmp_path / "a"
    old.write_text("old")

    def cut(peer) -> None:
        peer.head()
        peer.chunk(b"half")

    play(("GET ", wire.sandbox), ("GET ", stat), ("GET ", cut))

    done = terp("cp", f"{ID}:/tmp/a", str(old))

    assert done.returncode == 1
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    "args",
    [
        ["ls", "--nope"],
        ["rm"],
        ["rm", "--all", "sbx_1"],
        ["exec", "sbx_1", "--"],
        ["cp", "a", "b"],
        ["create", "-m", "x"],
        ["snapshot", "rm"],
        ["network", "set", "sbx_1"],
        ["network", "set", "sbx_1", "--allow", "a.example", "--allow-nothing"],
        ["url", "sbx_1", "0"],
        ["egress", "sbx_1", "--limit", "0"],
        ["attach", "sbx_1", "cmd_1", "--offset", "-1"],
        ["create", "-e", "NOT_SET_ANYWHERE"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    """Exits with 2 before anything is sent."""
    assert CliRunner().invoke(app, args).exit_code == 2


@pytest.mark.parametrize(
    ("args", "env", "message"),
    [
        (["ls"], {"TERP_API_KEY": ""}, "TERP_API_KEY"),
        (["ls"], {"TERP_BASE_URL": "nowhere"}, "must look like"),
        (["ls"], {"TERP_BASE_URL": "http://127.0.0.1:1"}, "Check TERP_BASE_URL"),
        (["run", "/nowhere.py"], {}, "/nowhere.py: No such file"),
    ],
)
def test_failures_are_one_line(terp, args: list[str], env: dict[str, str], message: str) -> None:
    """What happened and what to do, on stderr, with exit code 1."""
    done = terp(*args, env=env)

    assert done.returncode == 1
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no typer', name='typer')")

    done = subprocess.run(
        [sys.executable, "-m", "terp.cli.main"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == "terp: the command line needs an extra, install it with: pip install 'terp[cli]'\n"
