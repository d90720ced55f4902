"""The commands about what is inside of a sandbox, and beside it: volumes, webhooks, figures, logins."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("typer")

import typer
from typer.testing import CliRunner

from terp import TerpError
from terp.cli.app import app
from terp.cli.login import keep, use_kept

ID = "sbx_01JG0000000000000000000000"
COMMAND = {
    "id": "cmd_1",
    "command": "make\x1b[31m",
    "pid": 17,
    "status": "exited",
    "exit_code": 3,
    "started_at": "2026-01-01T00:00:00Z",
}
VOLUME = {"id": "vol_1", "name": "models", "size_mb": 512, "status": "available", "attached_sandbox_id": None}
WEBHOOK = {"id": "wh_1", "url": "https://example.com/hook", "event_types": None, "last_error": "HTTP 500"}
METRICS = {
    "sandbox_id": ID,
    "sandbox_status": "running",
    "as_of": "2026-01-01T00:00:10Z",
    "cpu": {"cores": 2, "usage_cores": 0.5, "usage_percent": 25.0},
    "memory": {"limit_bytes": 1 << 30, "usage_bytes": 1 << 29, "usage_percent": 50.0},
    "lifetime": {"cpu_seconds": 1.5, "gb_seconds": 2.5},
    "samples": [],
}
DONE = {"kind": "done", "execution_count": 1, "context_id": "default", "duration_ms": 5}


@pytest.fixture
def terp(wire, monkeypatch):
    monkeypatch.setenv("TERP_API_KEY", "k")
    monkeypatch.setenv("TERP_BASE_URL", wire.url)

    def run(*args: str, stdin: str | None = None) -> object:
        return CliRunner().invoke(app, args, input=stdin)

    return run


@pytest.fixture
def events(wire):
    """A reply: an event stream."""

    def stream(*frames):
        def reply(peer) -> None:
            peer.head()
            peer.chunk(wire.sse(*frames))
            peer.end()

        return reply

    return stream


def test_start_passes_secrets_of_this_environment_on(wire, terp, play, monkeypatch) -> None:
    """Without their values in an argument."""
    monkeypatch.setenv("KEY", "secret")
    seen = play(("GET ", wire.sandbox), ("POST ", COMMAND))

    done = terp("start", "--secret", "KEY", "-e", "A=1", ID, "--", "echo", "a b")

    assert (done.exit_code, done.stdout) == (0, "cmd_1\n")
    body = {"command": "echo 'a b'", "cwd": "/workspace", "env": {"A": "1"}, "secrets": {"KEY": "secret"}}
    assert json.loads(seen[1][1]) == body


def test_ps_shows_nothing_that_steers_the_terminal(wire, terp, play) -> None:
    """A guest writes its command lines."""
    play(("GET ", wire.sandbox), (f"GET /v1/sandboxes/{ID}/commands ", {"commands": [COMMAND]}))

    done = terp("ps", ID)

    assert done.stdout.splitlines()[1].split() == [
        "cmd_1", "exited", "3", "17", "2026-01-01", "00:00:00", "UTC", "make\N{REPLACEMENT CHARACTER}[31m",
    ]  # fmt: skip


def test_logs_come_in_pages(wire, terp, play) -> None:
    """From the first byte that is kept, to the last there is."""
    logs = f"GET /v1/sandboxes/{ID}/commands/cmd_1/logs"
    dropped = {"detail": "gone", "code": "log_dropped", "first_offset": 5}
    play(
        ("GET ", wire.sandbox),
        ("GET ", COMMAND),
        (f"{logs}?offset=0 ", lambda peer: peer.reply(dropped, "410 Gone")),
        (f"{logs}?offset=5 ", {"content": "€", "size": 9, "truncated": True}),
        (f"{logs}?offset=8 ", {"content": "b", "size": 9, "truncated": False}),
    )

    assert terp("logs", ID, "cmd_1").stdout == "€b"


def test_followed_log_begins_with_what_is_kept(wire, terp, play, events) -> None:
    """Unless a place is given."""
    dropped = {"detail": "gone", "code": "log_dropped", "first_offset": 5}
    logs = f"GET /v1/sandboxes/{ID}/commands/cmd_1/logs?follow=true"
    play(
        ("GET ", wire.sandbox),
        ("GET ", COMMAND),
        (f"{logs}&offset=0&", lambda peer: peer.reply(dropped, "410 Gone")),
        (f"{logs}&offset=5&", events(wire.chunk(b"kept", offset=5), wire.exited())),
    )

    assert terp("logs", "--follow", ID, "cmd_1").stdout == "kept"


def test_followed_log_passes_the_code_on(wire, terp, play, events) -> None:
    """Bytes as they are."""
    play(("GET ", wire.sandbox), ("GET ", COMMAND), ("GET ", events(wire.chunk(b"\xff", offset=5), wire.exited(3))))

    done = terp("logs", "-f", "--offset", "5", ID, "cmd_1")

    assert (done.exit_code, done.stdout_bytes) == (3, b"\xff")


def test_kill_goes_on_after_a_failure(wire, terp, play) -> None:
    """And says so with its exit code."""
    missing = {"detail": "no such", "code": "command_not_found"}
    play(
        ("GET ", wire.sandbox),
        ("GET ", lambda peer: peer.reply(missing, "404 Not Found")),
        ("GET ", COMMAND),
        ("DELETE ", {}),
        ("GET ", COMMAND),
    )

    done = terp("kill", ID, "cmd_0", "cmd_1")

    assert (done.exit_code, done.stdout) == (1, "cmd_1\n")
    assert "cmd_0: no such" in done.stderr


def test_code_prints_and_saves(wire, terp, play, events, tmp_path) -> None:
    """Output, results and images; file names are terp's own."""
    (tmp_path / "plot.js").write_text("1 + 1")
    image = {"type": "image_png", "text": "<Figure>", "png": base64.b64encode(b"PNG").decode(), "svg": "<svg/>"}
    frames = [
        {"kind": "stream", "stream": "stdout", "text": "out\n"},
        {"kind": "stream", "stream": "stderr", "text": "err\n"},
        {"kind": "result", "result": image},
        {"kind": "result", "result": {"type": "text", "text": "2", "is_main": True}},
    ]
    seen = play(("GET ", wire.sandbox), ("POST ", events(*frames, DONE)))

    done = terp("code", "--sandbox", ID, "-o", str(tmp_path / "out"), str(tmp_path / "plot.js"))

    assert (done.exit_code, done.stdout) == (0, "out\n<Figure>\n2\n")
    assert done.stderr.startswith("err\n")
    assert json.loads(seen[1][1])["language"] == "javascript"
    assert (tmp_path / "out" / "result-1.png").read_bytes() == b"PNG"
    assert (tmp_path / "out" / "result-1.svg").read_text() == "<svg/>"


def test_code_that_raises_fails(wire, terp, play, events) -> None:
    """In a new sandbox, which is ended, from stdin; the traceback goes to stderr."""
    error = {"name": "ValueError", "value": "no", "traceback": ["Traceback", "ValueError: no"]}
    seen = play(
        ("POST /v1/sandboxes ", wire.sandbox),
        ("POST ", events({"kind": "error", "error": error}, {**DONE, "error": error})),
        ("DELETE ", {}),
    )

    done = terp("code", "-", stdin="raise ValueError('no')")

    assert (done.exit_code, done.stderr) == (1, "Traceback\nValueError: no\n")
    assert json.loads(seen[0][1])["template"] == "code-interpreter"
    assert json.loads(seen[1][1])["code"] == "raise ValueError('no')"


def test_interrupted_code_has_the_code_of_a_timeout(wire, terp, play, events) -> None:
    """As timeout(1) has."""
    play(("GET ", wire.sandbox), ("POST ", events({**DONE, "interrupted": True})))

    assert terp("code", "--sandbox", ID, "--json", "-", stdin="x").exit_code == 124


def test_variables(wire, terp, play, monkeypatch) -> None:
    """Names are printed, values never."""
    monkeypatch.setenv("KEY", "secret")
    seen = play(("GET ", wire.sandbox), ("PATCH ", {"names": ["A", "KEY"]}))
    play(("GET ", wire.sandbox), ("PATCH ", {"names": ["A"]}))
    play(("GET ", wire.sandbox), ("GET ", {"names": ["A"]}))

    assert terp("env", "set", ID, "A=1", "KEY").stdout == "A\nKEY\n"
    assert terp("env", "unset", ID, "KEY").stdout == "A\n"
    assert json.loads(terp("env", "ls", "--json", ID).stdout) == ["A"]
    assert json.loads(seen[1][1]) == {"set": {"A": "1", "KEY": "secret"}, "unset": []}


def test_directory_goes_in(wire, terp, play, tmp_path) -> None:
    """Into a directory that is there; what was left out is told."""
    source = tmp_path / "project"
    source.mkdir()
    (source / "a.txt").write_text("a")
    os.mkfifo(source / "pipe")
    there = {"exists": True, "is_dir": True, "size": 0, "mode": 493, "modified_at": "2026-01-01T00:00:00Z"}
    seen = play(
        ("GET ", wire.sandbox), ("GET ", there), ("GET ", there), ("POST ", {}), ("PUT ", {"files": 1, "bytes": 1})
    )

    done = terp("cp", "-r", str(source), f"{ID}:/workspace")

    assert done.exit_code == 0
    assert done.stderr == "terp: left out: pipe\nterp: copied 1 entries, 1 bytes\n"
    assert "path=/workspace/project " in seen[4][0]
    with tarfile.open(fileobj=io.BytesIO(seen[4][1])) as tar:
        assert tar.getnames() == ["a.txt"]


def test_directory_comes_out(wire, terp, play, tmp_path) -> None:
    """To a name that is not there yet."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"a"))

    def archive(peer) -> None:
        peer.head()
        peer.chunk(out.getvalue())
        peer.end()

    play(("GET ", wire.sandbox), ("GET ", archive))

    done = terp("cp", "-r", "--json", f"{ID}:/workspace/out", str(tmp_path / "new"))

    assert json.loads(done.stdout) == {"files": 1, "size": 1, "skipped": []}
    assert (tmp_path / "new" / "a.txt").read_text() == "a"


def test_addresses_and_changes(wire, terp, play, events) -> None:
    """One line each."""
    address = {"url": "http://x/1", "method": "PUT", "path": "/workspace/a", "expires_at": "2026-01-01T00:00:00Z"}
    moved = {"kind": "moved", "path": "/w/b\n", "is_dir": False, "moved_from": "/w/a"}
    play(("GET ", wire.sandbox), (f"POST /v1/sandboxes/{ID}/files/presign-upload ", address))
    play(("GET ", wire.sandbox), ("GET ", events({"kind": "ready", "path": "/w", "is_dir": True}, moved)))

    assert terp("presign", "--upload", f"{ID}:/workspace/a").stdout == "http://x/1\n"
    lines = terp("watch", f"{ID}:/w").stdout.splitlines()
    assert lines == ["ready     /w", "moved     /w/b\N{REPLACEMENT CHARACTER}  from /w/a"]


def test_volumes(terp, play) -> None:
    """By name, in all commands."""
    listed = {"volumes": [VOLUME]}
    seen = play(("POST ", VOLUME))
    updated = play(("GET ", listed), ("PATCH ", VOLUME))
    play(("GET ", listed), ("POST /v1/sandboxes/volumes/vol_1/move ", VOLUME))
    play(("GET ", listed), ("DELETE ", {}), ("GET ", listed))
    play(("GET ", listed))

    assert terp("volume", "create", "models", "--size-gb", "0.5", "--days", "3").stdout == "vol_1\n"
    assert json.loads(seen[0][1]) == {"name": "models", "size_gb": 0.5, "max_lifetime_days": 3}
    assert terp("volume", "update", "models", "--forever").exit_code == 0
    assert json.loads(updated[1][1]) == {"max_lifetime_days": None}
    assert terp("volume", "move", "models", "eu").stdout == "vol_1\n"
    assert terp("volume", "rm", "models", "missing").exit_code == 1
    assert terp("volume", "ls").stdout.splitlines()[1].split() == [
        "vol_1",
        "models",
        "512",
        "MiB",
        "available",
        "-",
        "-",
    ]


def test_webhooks(terp, play) -> None:
    """The secret is printed when it is made."""
    listed = {"webhooks": [WEBHOOK]}
    play(("POST ", {**WEBHOOK, "secret": "whsec_1"}))
    play(("GET ", listed), ("POST ", WEBHOOK))
    play(("GET ", listed), ("GET ", {"deliveries": []}))
    play(("GET ", listed), ("DELETE ", {}), ("GET ", listed))
    play(("GET ", listed))

    assert terp("webhook", "create", "https://example.com/hook").stdout == "wh_1  whsec_1\n"
    assert terp("webhook", "enable", "wh_1").stdout == "wh_1\n"
    assert json.loads(terp("webhook", "deliveries", "wh_1", "--json").stdout) == []
    assert terp("webhook", "rm", "wh_1", "wh_2").exit_code == 1
    assert "HTTP 500" in terp("webhook", "ls").stdout


def test_top_and_usage(wire, terp, play) -> None:
    """Once, where stdout is no terminal; one that has just ended is left out."""
    gone = {"detail": "gone", "code": "sandbox_not_found"}
    play(
        ("GET /v1/sandboxes?limit=200&status=running ", {"sandboxes": [wire.sandbox, wire.sandbox]}),
        (f"GET /v1/sandboxes/{ID}/metrics ", lambda peer: peer.reply(gone, "404 Not Found")),
        (f"GET /v1/sandboxes/{ID}/metrics ", METRICS),
    )
    day = {"day": "2026-01-01", "cpu_seconds": 1.0, "gb_seconds": 2.0}
    play(
        (
            "GET /v1/usage?since=2026-01-01&until=2026-01-02 ",
            {"days": [day], "total": {"cpu_seconds": 1.0, "gb_seconds": 2.0}},
        )
    )

    table = terp("top").stdout.splitlines()
    used = terp("usage", "--since", "2026-01-01", "--until", "2026-01-02").stdout.splitlines()

    assert table[1].split() == [ID, "running", "2", "25", "%", "512", "MiB", "1024", "MiB", "1.5", "s", "2.5"]
    assert [line.split() for line in used[1:]] == [["2026-01-01", "1.0", "2.0"], ["total", "1.0", "2.0"]]


def test_top_at_a_terminal_is_drawn_anew(wire, play) -> None:
    """Until Ctrl-C, which is an ordinary way out."""
    play(*[(f"GET /v1/sandboxes/{ID}", reply) for reply in (wire.sandbox, METRICS, wire.sandbox, METRICS)])
    outer, inner = pty.openpty()
    env = {**os.environ, "TERP_API_KEY": "k", "TERP_BASE_URL": wire.url, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "terp.cli.main", "top", ID, "--interval", "0.5"]
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=subprocess.DEVNULL, env=env) as process:
        seen = b""
        while seen.count(b"512 MiB") < 2:
            seen += os.read(outer, 65536)
        process.send_signal(2)
        code = process.wait(60)
    os.close(outer)
    os.close(inner)

    assert code == 130


LIMITS = {"plan": "free", "max_concurrent": 1}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("TERP_API_KEY", raising=False)
    monkeypatch.delenv("TERP_BASE_URL", raising=False)
    return tmp_path / "terp" / "config.toml"


def test_login_keeps_what_works(wire, play, home) -> None:
    """For its owner alone; the key is in no argument."""
    seen = play(("GET /v1/sandboxes/limits ", LIMITS))

    done = CliRunner().invoke(app, ["login", "--base-url", f"{wire.url}/"], input='ke"y\n')

    assert done.exit_code == 0
    assert len(seen) == 1
    assert home.read_text() == f'base_url = "{wire.url}"\napi_key = "ke\\"y"\n'
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert list(home.parent.iterdir()) == [home]


def test_login_keeps_nothing_that_does_not_work(wire, play, home) -> None:
    """What was kept before stays."""
    keep(home, base_url="http://old", api_key="old")
    play(("GET ", lambda peer: peer.reply({"detail": "unknown key", "code": "unauthenticated"}, "401 Unauthorized")))

    done = CliRunner().invoke(app, ["login", "--base-url", wire.url], input="new\n")

    assert isinstance(done.exception, TerpError)
    assert "old" in home.read_text()


@pytest.mark.parametrize(
    ("environ", "used"),
    [
        ({}, {"TERP_BASE_URL": "http://kept:1", "TERP_API_KEY": "kept"}),
        ({"TERP_BASE_URL": "http://kept:1/"}, {"TERP_BASE_URL": "http://kept:1/", "TERP_API_KEY": "kept"}),
        ({"TERP_BASE_URL": "http://other"}, {"TERP_BASE_URL": "http://other"}),
        ({"TERP_API_KEY": "own"}, {"TERP_API_KEY": "own"}),
    ],
)
def test_environment_comes_first(home, environ, used) -> None:
    """A kept key goes to its own server and to no other."""
    keep(home, base_url="http://kept:1", api_key="kept")

    use_kept(environ)

    assert environ == used


@pytest.mark.parametrize("content", [None, b"", b"\xff", b'base_url = "x"\n', b"api_key = kept\nbase_url = 1\n"])
def test_damaged_file_keeps_nothing(home, content) -> None:
    """And stops no command."""
    if content is not None:
        home.parent.mkdir()
        home.write_bytes(content)
    environ: dict[str, str] = {}

    use_kept(environ)

    assert environ == {}


@pytest.mark.parametrize(
    "args",
    [
        ["start", ID],
        ["start", "--secret", "NOT_SET_ANYWHERE", ID, "true"],
        ["shell", ID, "--attach", "cmd_1", "--", "htop"],
        ["logs", ID, "cmd_1", "-f", "--json"],
        ["code", "--context", "ctx_1", "-"],
        ["presign", "/workspace/a"],
        ["watch", ID],
        ["cp", "--json", "a", f"{ID}:/a"],
        ["volume", "create", "x", "--days", "1", "--hours", "1"],
        ["volume", "update", "x"],
        ["usage", "--since", "yesterday"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    """Exits with 2 before anything is sent."""
    assert CliRunner().invoke(app, args, input="").exit_code == 2


def commands() -> list[str]:
    group = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += [name] if inner is None else [f"{name} {each}" for each in inner]
    return found


PASS_THROUGH = {"run", "exec", "attach", "shell", "mcp"}  # their output is a program's own


@pytest.mark.parametrize("command", sorted(set(commands()) - PASS_THROUGH))
def test_every_command_can_write_json(command: str) -> None:
    """All that has something to tell a program."""
    assert "--json" in CliRunner().invoke(app, [*command.split(), "--help"]).stdout


def test_removed_ones_are_told_as_json(wire, terp, play) -> None:
    """Those that are gone, when not all are."""
    missing = {"detail": "no such", "code": "sandbox_not_found"}
    play(("GET ", lambda peer: peer.reply(missing, "404 Not Found")), ("GET ", wire.sandbox), ("DELETE ", {}))

    done = terp("rm", "--json", "sbx_0", ID)

    assert (done.exit_code, json.loads(done.stdout)) == (1, [ID])


@pytest.mark.parametrize("command", commands())
def test_every_command_s_help_has_an_example(command: str) -> None:
    """One that can be copied."""
    assert f"Example: terp {command} " in CliRunner().invoke(app, [*command.split(), "--help"]).stdout


def test_completion_can_be_installed(monkeypatch) -> None:
    """For the shells that typer knows."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")

    done = CliRunner().invoke(app, ["--show-completion", "bash"])

    assert done.exit_code == 0
    assert "_TERP_COMPLETE" in done.stdout
