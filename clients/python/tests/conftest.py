"""Two servers to test against: one behind httpx' mock transport, one on a real socket that plays a script."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import httpx
import pytest

SANDBOX = {
    "id": "sbx_01JG0000000000000000000000",
    "status": "running",
    "template": "python-3.12",
    "size": "small",
    "network": "off",
    "cpu": 1,
    "memory_mb": 1024,
    "region": "local",
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-01-01T00:10:00.123456Z",
    "on_timeout": "kill",
    "end_reason": None,
    "metadata": {"user": "42"},
}

SNAPSHOT = {
    "id": "snap_01JG0000000000000000000000",
    "status": "ready",
    "name": "after setup",
    "source_sandbox_id": SANDBOX["id"],
    "template": "python-3.12",
    "cpu": 1,
    "memory_mb": 1024,
    "network": "off",
    "size_mb": 5,
    "stored_bytes": 5000000,
    "stopped_ms": 12.5,
    "node_id": "node-1",
    "region": "local",
    "error_message": None,
    "created_at": "2026-01-01T00:00:00Z",
    "ready_at": "2026-01-01T00:00:01Z",
}
COMMAND_ID = "cmd_01JG0000000000000000000000"


class Frames:
    """What an exec's event stream is made of. Tests reach it through the servers, a conftest cannot be imported."""

    sandbox = SANDBOX
    snapshot = SNAPSHOT
    started: Mapping[str, object] = {"kind": "exec_started", "pid": 17, "command_id": COMMAND_ID}

    @staticmethod
    def chunk(data: bytes, stream: str = "stdout", offset: int | None = None) -> Mapping[str, object]:
        frame = {"kind": "exec_chunk", "stream": stream, "data": base64.b64encode(data).decode()}
        return frame if offset is None else {**frame, "offset": offset}

    @staticmethod
    def exited(code: int = 0) -> Mapping[str, object]:
        return {"kind": "exec_exited", "code": code, "duration_ms": 18}

    @staticmethod
    def sse(*frames: Mapping[str, object]) -> bytes:
        return b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames)


class MockServer(Frames):
    """Answers requests with prepared replies in their order, and remembers the requests with their bodies."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self._replies: list[httpx.Response | Exception] = []

    def reply(
        self, status: int = 200, body: object = None, headers: dict[str, str] | None = None, content: bytes = b""
    ) -> None:
        data = content if body is None else json.dumps(body).encode()
        self._replies.append(httpx.Response(status, content=data, headers=headers))

    def fail(self, error: Exception) -> None:
        self._replies.append(error)

    def exec(self, *frames: Mapping[str, object]) -> None:
        self.reply(content=self.sse(*frames))

    @property
    def calls(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]

    def sent(self, index: int = -1) -> dict[str, object]:
        """Return the JSON of a request."""
        body: dict[str, object] = json.loads(self.requests[index].content)
        return body

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert self._replies, f"unexpected: {request.method} {request.url}"
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


@pytest.fixture
def server() -> Iterator[MockServer]:
    mock = MockServer()
    yield mock
    assert not mock._replies, "replies that nobody asked for"


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def request(self) -> tuple[str, bytes]:
        """Read one request; return its first line and body. An empty line means that the client has left."""
        first = self._file.readline().decode().strip()
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                self._file.readline()
            self._file.readline()
            return first, body
        return first, self._file.read(int(headers.get("content-length", 0)))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def head(self, status: str = "200 OK") -> None:
        """Begin a chunked reply."""
        self.send(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode())

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def reply(self, body: object, status: str = "200 OK") -> None:
        data = json.dumps(body).encode()
        self.send(f"HTTP/1.1 {status}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)

    def close(self) -> None:
        self._file.close()

    def left(self) -> bool:
        """Wait until the client closes the connection; False when it sends something instead."""
        with contextlib.suppress(ConnectionError):
            return self._file.read(1) == b""
        return True


class WireServer(Frames):
    """Listens on a real socket. Each `serve`d script plays one connection, in order, in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._scripts: list[Callable[[Peer], None]] = []
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @staticmethod
    def event() -> threading.Event:
        """For a script to wait until its test has seen something."""
        return threading.Event()

    @staticmethod
    def json(body: object) -> bytes:
        return json.dumps(body).encode()

    def serve(self, *scripts: Callable[[Peer], None]) -> None:
        self._scripts.extend(scripts)

    def join(self) -> None:
        """Wait until all scripts so far have been played to their end, and raise what went wrong in one."""
        for thread in self._threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "a script waits for something that does not come"
        if self._failures:
            raise self._failures[0]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(timeout=30)
        self.join()
        assert not self._scripts, "fewer connections than scripts"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._play, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _play(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            peer = Peer(connection)
            try:
                self._scripts.pop(0)(peer)
            except BaseException as error:  # noqa: BLE001 - for join() to raise
                self._failures.append(error)
            finally:
                peer.close()


@pytest.fixture
def wire() -> Iterator[WireServer]:
    server = WireServer()
    yield server
    server.close()


@pytest.fixture
def play(wire: WireServer) -> Callable[..., list[tuple[str, bytes]]]:
    """Serve one connection: each step is what a request's first line starts with, and the reply."""

    def serve(*steps: tuple[str, object]) -> list[tuple[str, bytes]]:
        seen: list[tuple[str, bytes]] = []

        def script(peer: Peer) -> None:
            for start, reply in steps:
                first, body = peer.request()
                assert first.startswith(start), first
                seen.append((first, body))
                if callable(reply):
                    reply(peer)
                else:
                    peer.reply(reply)

        wire.serve(script)
        return seen

    return serve


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have slept; it does not."""
    slept: list[float] = []

    async def sleep_async(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("terp.pairs.sleep_async", sleep_async)
    monkeypatch.setattr("terp.pairs.sleep", slept.append)
    return slept


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the developer's own server or key."""
    monkeypatch.delenv("TERP_API_KEY", raising=False)
    monkeypatch.delenv("TERP_BASE_URL", raising=False)
