"""Terminals: opened, typed into, resized, hung up. Their output is followed as that of a command."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from terpd.control.awake import Awake
from terpd.control.checks import check_command, check_env, check_path
from terpd.control.clock import Clock
from terpd.control.commands import DURING, TODO, check_offset, start_unfollowed
from terpd.control.end_command import end_command, find_command
from terpd.control.ended import explaining
from terpd.control.exec import RunCommand, RunningExec
from terpd.control.shielded import Shielded
from terpd.model.errors import InvalidRequest, LimitExceeded, TooLarge
from terpd.model.guest import DEFAULT_CWD, MAX_INPUT_BYTES, CommandInfo, ExecRequest, PtySize
from terpd.model.ids import ExecId, SandboxId, TenantId, new_exec_id
from terpd.model.ports import Node, Store

LOGIN_SHELL = 'exec "${SHELL:-/bin/bash}" -l'
MAX_TYPED_BYTES = 1024 * 1024  # by one call
MAX_SIZE = 1000  # columns, rows
USUAL_SIZE = PtySize(80, 24)

_TERM = {"TERM": "xterm-256color"}


@dataclass(frozen=True, slots=True)
class PtyRequest:
    """What a caller wants to run in a terminal; None is a login shell. TERM is `xterm-256color` unless *env* says."""

    command: str | None = None
    size: PtySize = USUAL_SIZE
    cwd: str = DEFAULT_CWD
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


class Ptys:
    """Raises as `Commands` does."""

    def __init__(
        self, store: Store, node: Node, awake: Awake, run: RunCommand, clock: Clock, shielded: Shielded
    ) -> None:
        self._store = store
        self._node = node
        self._awake = awake
        self._run = run
        self._clock = clock
        self._shielded = shielded

    async def open(self, tenant: TenantId, sandbox_id: SandboxId, request: PtyRequest) -> CommandInfo:
        """Raises as `Commands.start`."""
        command = LOGIN_SHELL if request.command is None else request.command
        check_command(command)
        check_env(request.env)
        start = ExecRequest(
            exec_id=new_exec_id(),
            command=command,
            cwd=check_path(request.cwd, field="cwd"),
            env={**_TERM, **request.env},
            timeout_s=None,
            pty=check_size(request.size),
        )
        async with self._running(tenant, sandbox_id):
            return await self._shielded.run(start_unfollowed(self._node, self._clock, sandbox_id, start))

    async def list(self, tenant: TenantId, sandbox_id: SandboxId) -> Sequence[CommandInfo]:
        """Oldest first."""
        async with self._running(tenant, sandbox_id):
            return [each for each in await self._node.list_commands(sandbox_id) if each.pty]

    async def get(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId) -> CommandInfo:
        """Raises ExecNotFound."""
        async with self._running(tenant, sandbox_id):
            return await find_command(self._node, sandbox_id, exec_id, pty=True)

    async def output(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> RunningExec:
        """As `RunCommand.attach`, of a terminal."""
        check_offset(offset)
        await self.get(tenant, sandbox_id, exec_id)
        return await self._run.attach(tenant, sandbox_id, exec_id, offset)

    async def type(
        self,
        tenant: TenantId,
        sandbox_id: SandboxId,
        exec_id: ExecId,
        chunks: AsyncIterable[bytes],
        offset: int | None,
    ) -> int:
        """
        Type what *chunks* hold, and return how many bytes the terminal has accepted from its start.

        Args:
            offset: Of the first byte: what was accepted before is not typed again. None: append.

        Raises:
            ExecNotFound.
            TooLarge: It is more than `MAX_TYPED_BYTES`. Nothing was typed.
            InvalidRequest: *offset* is beyond what was accepted.
            LimitExceeded: The program does not read; `offset` says how far it got.
        """
        if offset is not None:
            check_offset(offset)
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > MAX_TYPED_BYTES:
                raise TooLarge(
                    f"At most {MAX_TYPED_BYTES} bytes may be typed by one call", fields={"limit": MAX_TYPED_BYTES}
                )
        async with self._running(tenant, sandbox_id):
            await find_command(self._node, sandbox_id, exec_id, pty=True)
            return await self._type(sandbox_id, exec_id, bytes(data), offset)

    async def resize(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId, size: PtySize) -> None:
        """Raises ExecNotFound; InvalidRequest: no terminal has that size."""
        check_size(size)
        async with self._running(tenant, sandbox_id):
            await find_command(self._node, sandbox_id, exec_id, pty=True)
            await self._node.resize_pty(sandbox_id, exec_id, size)

    async def close(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId) -> None:
        """SIGHUP, as when a terminal is closed, and SIGKILL 2 s later. Raises ExecNotFound."""
        async with self._running(tenant, sandbox_id):
            await end_command(self._node, self._shielded, sandbox_id, exec_id, signal.SIGHUP, pty=True)

    async def _type(self, sandbox_id: SandboxId, exec_id: ExecId, data: bytes, offset: int | None) -> int:
        accepted = 0
        for at in range(0, max(len(data), 1), MAX_INPUT_BYTES):
            piece = data[at : at + MAX_INPUT_BYTES]
            try:
                where = None if offset is None else offset + at
                accepted = await self._node.send_input(sandbox_id, exec_id, piece, offset=where)
            except LimitExceeded as error:
                if accepted:
                    error.fields["offset"] = accepted
                raise
        return accepted

    @contextlib.asynccontextmanager
    async def _running(self, tenant: TenantId, sandbox_id: SandboxId) -> AsyncIterator[None]:
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, DURING, todo=TODO, fields={}):
            yield


def check_size(size: PtySize) -> PtySize:
    if not 1 <= size.cols <= MAX_SIZE or not 1 <= size.rows <= MAX_SIZE:
        raise InvalidRequest(f"cols and rows must be 1 to {MAX_SIZE}, not: {size.cols}, {size.rows}")
    return size
