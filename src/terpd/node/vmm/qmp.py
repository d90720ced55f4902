"""
A client of the QEMU Machine Protocol: JSON lines over a unix socket.

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
_MAX_EVENTS = 64  # different names; QEMU 10 has about as many in all its uses together
_MAX_MESSAGES_PER_S = 1000  # of a sane monitor: some ten at its start, then an event now and then


class Qmp:
    """One connection. Commands are answered in order; events are matched by name."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pending: list[asyncio.Future[Any]] = []
        self._events: dict[str, asyncio.Event] = {}
        self._pump = asyncio.create_task(self._read(), name="qmp")
        self._failure: VmmFailed | None = None
        self.execute_later("qmp_capabilities")

    @classmethod
    async def connect(cls, sock: socket.socket) -> Qmp:
        """Take over a connected, non-blocking unix socket."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE_BYTES)
        return cls(reader, writer)

    def execute_later(self, command: str, arguments: Mapping[str, Any] | None = None) -> asyncio.Future[Any]:
        """Write a command now; the future is its reply. Unretrieved failures are not reported twice."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._failure is not None:
            future.set_exception(self._failure)
            return future
        self._pending.append(future)
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self._writer.write(json.dumps(message, separators=(",", ":")).encode())
        return future

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> Any:
        """
        Raises:
            VmmFailed: QEMU refused, went away or did not answer within *timeout_s* seconds.
        """
        try:
            return await asyncio.wait_for(self.execute_later(command, arguments), timeout_s)
        except TimeoutError:
            raise VmmFailed(f"QEMU did not answer {command} within {timeout_s} s") from None

    async def event(self, name: str, *, timeout_s: float) -> None:
        """Wait until the event *name* has come at least once on this connection."""
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
