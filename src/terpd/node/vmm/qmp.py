"""
A client of the QEMU Machine Protocol: JSON lines, and file descriptors, over a unix socket.

Commands may be written before QEMU listens to them (the socket's backlog keeps them), which is how a restore
costs no round trip. QEMU is jailed yet may be taken over by its guest, so replies are bounded and deadlined too.
Source: QEMU documentation, "QEMU Machine Protocol Specification".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from typing import Any

from terpd.node.vmm.base import VmmFailed

MAX_LINE_BYTES = 256 * 1024
TIMEOUT_S = 10.0  # of a command that waits for nothing; a host that swaps or starves may need it
_MAX_EVENTS = 64  # different names; QEMU 10 has about as many in all its uses together
_MAX_MESSAGES_PER_S = 1000  # of a sane monitor: some ten at its start, then an event now and then


class Qmp:
    """One connection. Commands are answered in order; events are matched by name."""

    def __init__(self, sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sock = sock
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=0)  # so that drain() waits until all is written
        self._pending: list[asyncio.Future[Any]] = []
        self._events: dict[str, asyncio.Event] = {}
        self._pump = asyncio.create_task(self._read(), name="qmp")
        self._failure: VmmFailed | None = None
        self._ready = self.execute_later("qmp_capabilities")

    @classmethod
    async def connect(cls, sock: socket.socket) -> Qmp:
        """Take over a connected, non-blocking unix socket."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE_BYTES)
        return cls(sock, reader, writer)

    def execute_later(self, command: str, arguments: Mapping[str, Any] | None = None) -> asyncio.Future[Any]:
        """Write a command now; the future is its reply. Unretrieved failures are not reported twice."""
        future = self._expect()
        if not future.done():
            self._writer.write(_encode(command, arguments))
        return future

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """
        Raises:
            VmmFailed: QEMU refused, went away or did not answer within *timeout_s* seconds.
        """
        return await self._reply(self.execute_later(command, arguments), command, timeout_s)

    async def add_fd(self, fd: int, fdset: int) -> None:
        """
        Give QEMU a duplicate of *fd*: one of `/dev/fdset/<fdset>`, of which it takes the one with the access it needs.

        Raises:
            VmmFailed: As `execute`.
        """
        try:
            # It goes past the stream's buffer, which must be empty: QEMU takes the descriptor by the bytes it comes
            # with. A command is far smaller than a socket's own buffer; QEMU that does not read is not waited for.
            await asyncio.wait_for(self._writer.drain(), TIMEOUT_S)
            message = _encode("add-fd", {"fdset-id": fdset})
            sent = 0 if self._failure else socket.send_fds(self._sock, [message], [fd])
        except (OSError, TimeoutError) as error:
            raise VmmFailed(f"QEMU took no descriptor: {error!r}") from error
        if 0 < sent < len(message):
            self._fail(VmmFailed("QEMU does not read the QMP connection"))
        await self._reply(self._expect(), "add-fd", TIMEOUT_S)

    async def ready(self, *, timeout_s: float) -> None:
        """Wait until QEMU takes commands: everything that its command line names is made by then."""
        await self._reply(self._ready, "qmp_capabilities", timeout_s)

    def forget(self, event: str) -> None:
        """What came of this event so far does not count for `event`."""
        if self._failure is None and event in self._events:
            self._events[event].clear()

    async def event(self, name: str, *, timeout_s: float) -> None:
        """Wait until the event *name* has come at least once on this connection, or since `forget`."""
        event = self._events.setdefault(name, asyncio.Event())
        if self._failure is not None:
            raise self._failure
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            raise VmmFailed(f"QEMU did not report {name} within {timeout_s} s") from None
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        self._pump.cancel()
        self._writer.close()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._pump
        self._fail(VmmFailed("the QMP connection was closed"))

    def _expect(self) -> asyncio.Future[Any]:
        """The reply to a command that is written right after this; done already when the connection is not there."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._failure is not None:
            future.set_exception(self._failure)
        else:
            self._pending.append(future)
        return future

    @staticmethod
    async def _reply(future: asyncio.Future[Any], command: str, timeout_s: float) -> Any:
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise VmmFailed(f"QEMU did not answer {command} within {timeout_s} s") from None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        second_ends, messages = 0.0, 0
        try:
            while line := await self._reader.readline():
                if loop.time() > second_ends:
                    second_ends, messages = loop.time() + 1, 0
                messages += 1
                if messages > _MAX_MESSAGES_PER_S:  # each costs this loop 10 µs, which all machines share
                    raise VmmFailed("QEMU floods the QMP connection")
                self._take(json.loads(line))
            self._fail(VmmFailed("QEMU closed the QMP connection"))
        except Exception as error:  # noqa: BLE001  whatever it sent (a RecursionError deep), it must fail the waiters
            self._fail(VmmFailed(f"QMP: {str(error)[:200]!r} ({type(error).__name__})"))
        self._writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            if len(self._events) < _MAX_EVENTS:
                self._events.setdefault(str(message["event"])[:64], asyncio.Event()).set()
            return
        if "QMP" in message or not self._pending:  # the greeting
            return
        future = self._pending.pop(0)
        if future.done():
            return
        if "error" in message:
            text = str(message["error"].get("desc", message["error"]))[:500]
            future.set_exception(VmmFailed(f"QEMU refused: {text}"))
        else:
            future.set_result(message.get("return"))

    def _fail(self, failure: VmmFailed) -> None:
        if self._failure is None:
            self._failure = failure
        for future in self._pending:
            if not future.done():
                future.set_exception(self._failure)
        self._pending.clear()
        for event in self._events.values():
            event.set()


def _encode(command: str, arguments: Mapping[str, Any] | None) -> bytes:
    message: dict[str, Any] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    return json.dumps(message, separators=(",", ":")).encode()
