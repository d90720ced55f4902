"""A TCP proxy on loopback that breaks connections after so many bytes, as a network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

_CHUNK_BYTES = 64 * 1024


class CutProxy:
    """
    Forwards to *target*, until the bytes allowed are used up; then it cuts all connections and refuses new ones.

    Attributes:
        sent, received: Bytes passed to the target and from it, since `allow` was called.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.sent = 0
        self.received = 0
        self._target = target
        self._allowed: int | None = None
        self._cuts: int | None = None
        self._step = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        self._thread.join()

    def allow(self, count: int | None = None, *, cuts: int | None = None) -> None:
        """
        Count anew, and cut after *count* bytes; None never does.

        Args:
            cuts: How many times it cuts, always after *count* more bytes, until it lets everything pass; None: it
                cuts once and lets nothing pass any more.
        """
        with self._lock:
            self.sent = self.received = 0
            self._allowed = count
            self._step = count or 0
            self._cuts = cuts
        if count == 0:
            self._cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._allowed == 0:
                client.close()
                continue
            server = socket.create_connection(self._target)
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink, sink is server), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:  # noqa: FBT001
        with contextlib.suppress(OSError):
            while content := source.recv(_CHUNK_BYTES):
                if not self._pass(len(content), to_server=to_server):
                    self._cut()
                    return
                sink.sendall(content)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _pass(self, count: int, *, to_server: bool) -> bool:
        with self._lock:
            if self._allowed is not None and self.sent + self.received + count > self._allowed:
                if self._cuts is None:
                    self._allowed = 0
                else:
                    self._cuts -= 1
                    self._allowed = self._allowed + self._step if self._cuts else None
                return False
            if to_server:
                self.sent += count
            else:
                self.received += count
            return True

    def _cut(self) -> None:
        with self._lock:
            connections, self._open = self._open, set()
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
