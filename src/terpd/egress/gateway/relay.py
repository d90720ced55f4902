"""
Bytes both ways between two sockets, without looking at them.

A direction begins with plain copying, which is all that most connections need, and goes over to splicing through a
pipe once it has carried some: 2 descriptors and 5 system calls more, a quarter of the processor time per byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

from terpd.egress.gateway.http import Body
from terpd.egress.gateway.tls import Malformed

_COPY_BYTES = 64 * 1024
_SPLICE_AFTER_BYTES = 128 * 1024
_PIPE_BYTES = 256 * 1024
_ROUNDS = 4  # of one direction before others have their turn
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Relay:
    """
    Between two non-blocking sockets, which stay the caller's to close, after `run` has returned or raised.

    Args:
        body: Of the one request that the guest may send; what follows is not read. None: all that it sends passes.
    """

    def __init__(self, guest: socket.socket, server: socket.socket, *, body: Body | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._only_request = body is not None
        self._out = _Direction(self._loop, guest, server, body, self._end)
        self._in = _Direction(self._loop, server, guest, None, self._end)
        self.active_at = self._loop.time()
        self._seen = 0

    @property
    def bytes_out(self) -> int:
        return self._out.carried

    @property
    def bytes_in(self) -> int:
        return self._in.carried

    @property
    def half_closed(self) -> bool:
        return self._out.ended or self._in.ended

    def idle_since(self) -> float:
        """The loop's time when this was last called and found that something had moved since the call before."""
        carried = self.bytes_out + self.bytes_in
        if carried != self._seen:
            self._seen, self.active_at = carried, self._loop.time()
        return self.active_at

    async def run(self) -> None:
        """
        Carry until both have ended what they send or, with a *body*, the server has.

        Raises:
            OSError: One of them broke off.
            Malformed: The body is.
        """
        try:
            self._in.start()
            self._out.start()
            await self._over
        finally:
            # Before anybody closes the sockets: their numbers are used again at once, and with them what the
            # selector would still call.
            self._out.stop()
            self._in.stop()

    def _end(self, error: Exception | None) -> None:
        if self._over.done():
            return
        if error is not None:
            self._over.set_exception(error)
        elif self._in.ended and (self._out.ended or self._only_request):
            self._over.set_result(None)


class _Direction:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        sink: socket.socket,
        body: Body | None,
        end: Callable[[Exception | None], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._from = source.fileno()
        self._to = sink.fileno()
        self._body = body
        self._end = end
        self._pending = memoryview(b"")  # read, and not yet taken by the sink
        self._pipe: tuple[int, int] | None = None
        self._piped = 0  # bytes in the pipe
        self.carried = 0
        self.ended = False

    def start(self) -> None:
        whole = self._body is not None and self._body.done
        self._loop.add_reader(self._from, self._watch if whole else self._move)

    def stop(self) -> None:
        self._loop.remove_reader(self._from)
        self._loop.remove_writer(self._to)
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def _move(self) -> None:
        try:
            if self._pipe is None:
                self._copy()
            else:
                self._splice(self._pipe)
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, Malformed) as error:
            self._end(error)

    def _copy(self) -> None:
        data = self._source.recv(_COPY_BYTES)
        if not data:
            self._finish()
            return
        if self._body is not None:
            data = data[: self._body.take(data)]
        self._pending = memoryview(data)
        self._flush()

    def _flush(self) -> None:
        """Write what is pending, and go on with whatever is next."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            sent = self._sink.send(self._pending)
            self.carried += sent
            self._pending = self._pending[sent:]
        if self._pending:
            self._wait_for_sink()
        elif self._body is not None and self._body.done:
            self._loop.add_reader(self._from, self._watch)
        elif self._body is None and self.carried >= _SPLICE_AFTER_BYTES:
            self._open_pipe()

    def _watch(self) -> None:
        """After the only request: see its end, and leave unread whatever else is sent."""
        try:
            if self._source.recv(1, socket.MSG_PEEK):
                self._loop.remove_reader(self._from)
            else:
                self._finish()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._end(error)

    def _open_pipe(self) -> None:
        try:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # no descriptor is left: copying works without
        with contextlib.suppress(OSError):  # above the pages that one user's pipes may have: smaller ones work, too
            fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _splice(self, pipe: tuple[int, int]) -> None:
        for _ in range(_ROUNDS):
            if self._piped == 0:
                self._piped = os.splice(self._from, pipe[1], _PIPE_BYTES, flags=_FLAGS)
                if self._piped == 0:
                    self._finish()
                    return
            try:
                sent = os.splice(pipe[0], self._to, self._piped, flags=_FLAGS)
            except BlockingIOError:
                sent = 0
            self._piped -= sent
            self.carried += sent
            if self._piped:
                self._wait_for_sink()
                return

    def _wait_for_sink(self) -> None:
        self._loop.remove_reader(self._from)
        self._loop.add_writer(self._to, self._sink_ready)

    def _sink_ready(self) -> None:
        self._loop.remove_writer(self._to)
        self._loop.add_reader(self._from, self._move)
        try:
            if self._pending:
                self._flush()
            elif self._pipe is not None:
                self._splice(self._pipe)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._end(error)

    def _finish(self) -> None:
        self.ended = True
        self._loop.remove_reader(self._from)
        self._sink.shutdown(socket.SHUT_WR)
        self._end(None)
