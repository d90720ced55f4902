"""
Background commands, terminals and variables of a simulated node: what a test says happens in them.

A command of the shell that ends at once does so here too. All others run until the test ends them, or a signal does;
`stubborn` ignores all signals but SIGKILL. A terminal shows what is typed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from support.sandboxes import NOON
from terpd.model.errors import ExecNotFound, GuestFault, InvalidRequest, LimitExceeded, SecretsInUse, StateConflict
from terpd.model.guest import (
    CommandInfo,
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    ExecStarted,
    LogPage,
    OutputStream,
    PtySize,
)
from terpd.model.ids import ExecId

PIECE_BYTES = 32 * 1024
PID = 17


@dataclass
class SimulatedCommand:
    """
    Attributes:
        first: The log begins there now.
        reads: How many pages were read of it.
        streams: How many attach to it now.
        room: What a terminal takes before its program has to read; None: anything.
    """

    request: ExecRequest
    log: bytearray = field(default_factory=bytearray)
    first: int = 0
    exited: ExecExited | None = None
    typed: bytearray = field(default_factory=bytearray)
    size: PtySize | None = None
    room: int | None = None
    signals: list[int] = field(default_factory=list)
    reads: int = 0
    streams: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def copy(self) -> SimulatedCommand:
        return replace(self, log=bytearray(self.log), typed=bytearray(self.typed), changed=asyncio.Event(), streams=0)

    @property
    def info(self) -> CommandInfo:
        return CommandInfo(
            exec_id=self.request.exec_id,
            command=self.request.command[:4096],
            pid=PID,
            started_at=NOON,
            pty=self.request.pty is not None,
            exited=self.exited,
        )

    def write(self, data: bytes) -> None:
        self.log += data
        self._tell()

    def drop(self, before: int) -> None:
        """Forget what is older."""
        self.first = before

    def exit(self, code: int = 0, signal: int | None = None) -> None:
        self.exited = self.exited or ExecExited(code, signal, timed_out=False, duration_ms=5)
        self._tell()

    def kill(self, signal: int) -> None:
        self.signals.append(signal)
        if signal == 9 or not self.request.command.startswith("stubborn"):
            self.exit(128 + signal, signal)

    def page(self, offset: int, limit: int) -> LogPage:
        self.reads += 1
        offset = min(max(offset, self.first), len(self.log))
        data = bytes(self.log[offset : offset + limit])
        return LogPage(data, self.first, offset, len(self.log), self.exited)

    async def follow(self, offset: int, cut: asyncio.Event, gone: asyncio.Event) -> AsyncIterator[ExecEvent]:
        self.streams += 1
        try:
            yield ExecStarted(PID)
            while True:
                offset = max(offset, self.first)
                if data := bytes(self.log[offset : offset + PIECE_BYTES]):
                    yield ExecOutput(OutputStream.STDOUT, data, offset)
                    offset += len(data)
                elif self.exited is not None:
                    yield self.exited
                    return
                else:
                    await _first(self.changed, cut)
                    if gone.is_set():
                        raise GuestFault("The guest is lost")
                    if cut.is_set():
                        raise StateConflict("It was paused")
        finally:
            self.streams -= 1

    def _tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class SimulatedCommands:
    """Those of one guest, with the variables that were set in it."""

    by_id: dict[ExecId, SimulatedCommand] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    def copy(self, *, with_env: bool) -> SimulatedCommands:
        return SimulatedCommands(
            {exec_id: command.copy() for exec_id, command in self.by_id.items()}, dict(self.env) if with_env else {}
        )

    def start(self, request: ExecRequest, output: Sequence[bytes], exit_code: int | None) -> None:
        command = self.by_id[request.exec_id] = SimulatedCommand(request, size=request.pty)
        command.write(b"".join(output))
        if exit_code is not None:
            command.exit(exit_code)

    def find(self, exec_id: ExecId) -> SimulatedCommand:
        if exec_id not in self.by_id:
            raise ExecNotFound(f"There is no such command: {exec_id}")
        return self.by_id[exec_id]

    def type(self, exec_id: ExecId, data: bytes, offset: int | None) -> int:
        command = self.find(exec_id)
        if command.request.pty is None:
            raise InvalidRequest("It takes no input")
        if offset is not None:
            if offset > len(command.typed):
                raise InvalidRequest(f"Only {len(command.typed)} bytes were accepted")
            data = data[len(command.typed) - offset :]
        if command.room is not None and len(command.typed) + len(data) > command.room:
            raise LimitExceeded("The program does not read")
        command.typed += data
        command.write(data)
        return len(command.typed)

    def resize(self, exec_id: ExecId, size: PtySize) -> None:
        command = self.find(exec_id)
        if command.request.pty is None:
            raise InvalidRequest("It is no terminal")
        command.size = size

    def change_env(self, to_set: Mapping[str, str], to_unset: Collection[str]) -> None:
        self.env.update(to_set)
        for name in to_unset:
            self.env.pop(name, None)

    def check_secrets(self, requests: Collection[ExecRequest]) -> None:
        """Raise SecretsInUse if a command runs that was given some; *requests* are those that are followed."""
        running = [command.request for command in self.by_id.values() if command.exited is None]
        if any(request.secrets for request in (*running, *requests)):
            raise SecretsInUse("A command runs that was given secrets")


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
