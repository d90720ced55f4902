"""Servers on loopback that speak TLS, as the world beyond the gateway."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"
WAIT_S = 60.0
BIG_BYTES = 24 * 1024 * 1024


def read_head(conn: ssl.SSLSocket) -> bytes:
    """Read what there is up to the end of a request's head, and perhaps more; nothing when the client went away."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            piece = conn.recv(65536)
        except OSError:
            piece = b""
        if not piece:
            return b""
        data += piece
    return data


class ScriptedServer:
    """
    A TLS server that runs *script* for each connection, in a thread of its own.

    Args:
        context: With its certificate.

    Attributes:
        errors: Of scripts, as far as they raised; a test looks at them when it is about them.
    """

    def __init__(self, context: ssl.SSLContext, script: Callable[[ssl.SSLSocket], None]) -> None:
        self.errors: queue.Queue[Exception] = queue.Queue()
        self.connections = 0
        self._context = context
        self._script = script
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(conn,)))
            self._threads[-1].start()

    def _serve(self, conn: socket.socket) -> None:
        conn.settimeout(WAIT_S)
        try:
            with self._context.wrap_socket(conn, server_side=True) as tls:
                try:
                    self._script(tls)
                finally:
                    with contextlib.suppress(OSError):
                        tls.unwrap()
        except Exception as error:  # noqa: BLE001 - for the test to look at
            self.errors.put(error)
        finally:
            conn.close()


def receive_all(conn: ssl.SSLSocket) -> bytes:
    data = b""
    while piece := conn.recv(65536):
        data += piece
    return data


class ApiServer:
    """
    An HTTP/1.1 API with a key, as a vendor's: what real clients do with it.

    Attributes:
        heads: Path and fields of requests, as they came.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.heads: queue.Queue[tuple[str, list[tuple[str, str]]]] = queue.Queue()
        handler = type("Handler", (_ApiHandler,), {"heads": self.heads})
        self._server = ThreadingHTTPServer((LOOPBACK, 0), handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(WAIT_S)
        self._server.server_close()


class _ApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    heads: queue.Queue[tuple[str, list[tuple[str, str]]]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        pass

    def do_GET(self) -> None:
        self.heads.put((self.path, self.headers.items()))
        if self.path == "/big":
            self._answer(bytes(range(256)) * (BIG_BYTES // 256))
        elif self.path == "/reflect":
            key = self.headers["Authorization"].removeprefix("Bearer ")
            self._answer(f'{{"error": "the key {key} is wrong"}}'.encode(), {"X-Key": key, "X-Said": f"<{key}>"})
        elif self.path == "/moved":
            self._answer(b"", {"Location": "https://elsewhere.test/next"}, status=302)
        elif self.path == "/socket":
            self._socket()
        else:
            self._answer(json.dumps(self.headers.items()).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.heads.put((self.path, self.headers.items()))
        digest, size = hashlib.sha256(), 0
        for piece in self._pieces():
            digest.update(piece)
            size += len(piece)
        self._answer(json.dumps({"size": size, "sha256": digest.hexdigest()}).encode())

    def do_PUT(self) -> None:
        self.do_POST()

    def _pieces(self) -> Iterator[bytes]:
        if self.headers["Transfer-Encoding"] != "chunked":
            left = int(self.headers["Content-Length"])
            while left:
                piece = self.rfile.read(min(left, 65536))
                left -= len(piece)
                yield piece
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _socket(self) -> None:
        """A WebSocket's handshake; then all bytes come back as they went."""
        self.close_connection = True
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.connection.sendall(b"hello")
        while data := self.connection.recv(65536):
            self.connection.sendall(data)
