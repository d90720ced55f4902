"""`terp shell` as its user meets it: a process at a real pseudo-terminal, against a server that keeps one terminal."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("typer")

from terp.cli.escapes import Escapes

ID = "sbx_01JG0000000000000000000000"
INFO = {"id": "cmd_2", "command": "bash -l", "pid": 9, "started_at": "2026-01-01T00:00:00Z"}
PATIENCE_S = 60.0


class Guest:
    """One terminal of a sandbox: shows what it is told, remembers what is typed."""

    def __init__(self, sandbox: dict[str, object]) -> None:
        self.sandbox = sandbox
        self.changed = threading.Condition()
        self.output = b""
        self.typed = b""
        self.sizes: list[tuple[int, int]] = []
        self.exit: tuple[str, int | None] | None = None
        self.breaks = 0  # streams to break after their first chunk
        self.lost = 0  # replies to lose after what was typed was taken
        self.streams = 0

    def show(self, data: bytes) -> None:
        with self.changed:
            self.output += data
            self.changed.notify_all()

    def end(self, status: str = "exited", code: int | None = 0) -> None:
        with self.changed:
            self.exit = (status, code)
            self.changed.notify_all()

    def wait_for(self, typed: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: typed in self.typed, PATIENCE_S), self.typed

    def wait_for_sizes(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.sizes) >= number, PATIENCE_S), self.sizes

    def news(self, offset: int) -> tuple[bytes, tuple[str, int | None] | None]:
        """Wait for output behind *offset*, or the end."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.output) > offset or self.exit is not None, PATIENCE_S)
            return self.output[offset:], self.exit

    @property
    def info(self) -> dict[str, object]:
        status, code = self.exit or ("running", None)
        return {**INFO, "status": status, "exit_code": code}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def guest(self) -> Guest:
        return self.server.guest

    def log_message(self, *args: object) -> None:
        pass

    def _reply(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if "/output" in self.path:
            self._stream(int(self.path.partition("offset=")[2]))
        else:
            self._reply(self.guest.info if "/pty/" in self.path else self.guest.sandbox)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.guest.changed:
            if "/input" in self.path:
                offset = self.path.partition("offset=")[2]
                self.guest.typed += body[max(len(self.guest.typed) - int(offset), 0) if offset else 0 :]
            else:
                said = json.loads(body)
                self.guest.sizes.append((said["cols"], said["rows"]))
            self.guest.changed.notify_all()
            accepted = len(self.guest.typed)
            if "/input" in self.path and body and self.guest.lost:
                self.guest.lost -= 1
                self.close_connection = True
                return
        if "/input" in self.path:
            self._reply({"offset": accepted})
        else:
            self._reply(self.guest.info, 201)

    def _stream(self, offset: int) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.guest.streams += 1
        while True:
            data, exited = self.guest.news(offset)
            with contextlib.suppress(OSError):  # the client has detached
                if data:
                    text = base64.b64encode(data).decode()
                    self._frame({"kind": "exec_chunk", "stream": "stdout", "data": text, "offset": offset})
                    offset += len(data)
                if data and self.guest.breaks:
                    self.guest.breaks -= 1
                    self.close_connection = True
                    return
                if exited:
                    killed = {"kind": "error", "code": "exec_killed", "message": "killed", "signal": 1}
                    ended = {"kind": "exec_exited", "code": exited[1], "duration_ms": 1}
                    self._frame(ended if exited[0] == "exited" else killed)
                    self.wfile.write(b"0\r\n\r\n")
                    return
                continue
            return

    def _frame(self, frame: object) -> None:
        data = b"data: " + json.dumps(frame).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, guest: Guest) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.guest = guest

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that was ended


@pytest.fixture
def guest(wire) -> Guest:
    return Guest(dict(wire.sandbox))


@pytest.fixture
def url(guest) -> Iterator[str]:
    server = Server(guest)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    guest.end()
    server.shutdown()
    thread.join()
    server.server_close()


class User:
    """Sits at a pseudo-terminal that `terp shell` runs in."""

    def __init__(self, url: str, *args: str) -> None:
        self.terminal, inner = pty.openpty()
        self.resize(100, 30)
        self.before = termios.tcgetattr(inner)
        self._inner = inner
        env = {**os.environ, "TERP_API_KEY": "k", "TERP_BASE_URL": url, "XDG_CONFIG_HOME": "/nonexistent"}
        env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "terp.cli.main", "shell", ID, *args],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=env,
        )
        self.seen = b""

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.terminal, data)

    def sees(self, text: bytes) -> None:
        while text not in self.seen:
            ready, _, _ = select.select([self.terminal], [], [], PATIENCE_S)
            assert ready, self.seen
            self.seen += os.read(self.terminal, 65536)

    @property
    def mode(self) -> list[object]:
        return termios.tcgetattr(self._inner)

    def leaves(self) -> int:
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)
        os.close(self._inner)


@pytest.fixture
def sit(url) -> Iterator[object]:
    users: list[User] = []

    def start(*args: str) -> User:
        users.append(User(url, *args))
        return users[-1]

    yield start
    for user in users:
        user.close()


def test_shell_is_a_terminal(guest, sit) -> None:
    """Every key arrives once, also Ctrl-C; all that is shown is seen; the exit code is the shell's."""
    guest.show(b"$ ")
    user = sit()
    user.sees(b"$ ")
    raw = user.mode
    user.type(b"ls\r\x03\x04")
    guest.wait_for(b"ls\r\x03\x04")
    guest.show("€\x1b[31m".encode())
    user.sees("€\x1b[31m".encode())

    guest.end(code=7)

    assert user.leaves() == 7
    assert raw != user.before
    assert user.mode == user.before
    assert guest.sizes == [(100, 30)]
    assert b"ls" not in user.seen  # the sandbox alone echoes


def test_new_size_is_told(guest, sit) -> None:
    """As soon as the window changes."""
    guest.show(b"$ ")
    user = sit()
    user.sees(b"$ ")

    user.resize(120, 50)
    user.process.send_signal(signal.SIGWINCH)
    guest.wait_for_sizes(2)

    assert guest.sizes == [(100, 30), (120, 50)]


def test_broken_connections_lose_and_double_nothing(guest, sit) -> None:
    """What is shown, and what is typed."""
    guest.breaks, guest.lost = 1, 2
    guest.show(b"one ")
    user = sit()
    user.sees(b"one ")
    guest.show(b"two ")
    user.type(b"echo 1\r")
    guest.wait_for(b"echo 1\r")
    user.type(b"echo 2\r")
    guest.wait_for(b"echo 2\r")
    user.sees(b"two ")
    guest.end()

    assert user.leaves() == 0
    assert guest.typed == b"echo 1\recho 2\r"
    assert user.seen == b"one two "
    assert guest.streams == 2


@pytest.mark.parametrize("keys", [b"\x1d\x1d", b"\r~."])
def test_detach_leaves_it_open_and_says_how_to_come_back(guest, sit, keys) -> None:
    """With exit code 0 and the terminal as it was; who comes back sees it again."""
    guest.show(b"$ ")
    user = sit()
    user.sees(b"$ ")

    user.type(keys)
    user.sees(f"terp shell {ID} --attach cmd_2".encode())

    assert user.leaves() == 0
    assert user.mode == user.before
    assert guest.exit is None
    again = sit("--attach", "cmd_2")
    again.sees(b"$ ")
    again.type(b"x")
    guest.wait_for(keys[:-2] + b"x")
    guest.end(code=3)
    assert again.leaves() == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_put_the_terminal_back(guest, sit, number) -> None:
    """And leave the sandbox's open."""
    guest.show(b"$ ")
    user = sit()
    user.sees(b"$ ")

    user.process.send_signal(number)

    user.sees(b"--attach cmd_2")
    assert user.leaves() == 128 + number
    assert user.mode == user.before


def test_killed_shell_is_told(guest, sit) -> None:
    """It has no exit code to pass on."""
    guest.show(b"$ ")
    user = sit()
    user.sees(b"$ ")

    guest.end("killed", None)

    user.sees(b"was killed")
    assert user.leaves() == 1


def test_input_that_is_no_terminal_is_typed(guest, url) -> None:
    """With an end of file behind it."""
    env = {**os.environ, "TERP_API_KEY": "k", "TERP_BASE_URL": url}
    command = [sys.executable, "-m", "terp.cli.main", "shell", ID, "--", "cat", "-n"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        process.stdin.write(b"hello\n")
        process.stdin.close()
        guest.wait_for(b"hello\n\x04")
        guest.show(b"1 hello\r\n")
        guest.end()

        assert process.stdout.read() == b"1 hello\r\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("typed", "passed", "left"),
    [
        ([b"a\x1d", b"\x1db"], b"a", True),
        ([b"\x1d", b"a"], b"\x1da", False),
        ([b"~", b"."], b"", True),
        ([b"ls\r~."], b"ls\r", True),
        ([b"~~.x"], b"~.x", False),
        ([b"a~.x"], b"a~.x", False),
        ([b"~a~."], b"~a~.", False),
        ([b"\x1d\r~", b"."], b"\x1d\r", True),
        ([b"\xe2\x82\xac"], b"\xe2\x82\xac", False),
    ],
)
def test_escapes(typed: list[bytes], passed: bytes, left: bool) -> None:  # noqa: FBT001
    """Only the keys that are meant for terp are kept from the sandbox, wherever reads cut them."""
    escapes, got, detached = Escapes(), b"", False

    for data in typed:
        part, detached = escapes.feed(data)
        got += part

    assert (got, detached) == (passed, left)


def test_help_says_how_to_leave() -> None:
    """Somebody whose keys all go elsewhere cannot look it up then."""
    done = subprocess.run(
        [sys.executable, "-m", "terp.cli.main", "shell", "--help"], capture_output=True, text=True, check=True
    )

    assert re.search(r"Ctrl-\] twice", done.stdout)
