"""Run commands in a sandbox: as a stream of events, or collected to one result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from terpd.control.awake import Awake
from terpd.control.checks import check_command, check_env, check_path, check_secrets
from terpd.control.end_command import leave_to_die
from terpd.control.ended import explaining
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.model.errors import GuestFault, InvalidRequest, StateConflict, TooLarge
from terpd.model.guest import (
    DEFAULT_CWD,
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    OutputStream,
)
from terpd.model.ids import ExecId, SandboxId, TenantId, new_exec_id
from terpd.model.ports import Node, Store

# The guest ends a command at its timeout, waits 2 s, kills it and drains its output; under emulation all of this is
# slow. Only a guest that is silent beyond that is at fault.
GRACE_S = 30.0
MAX_STDIN_BYTES = 8 * 1024 * 1024
MAX_OUTPUT_BYTES = 8 * 1024 * 1024  # kept of each stream in a collected result


Kept = dict[OutputStream, bytearray]


@dataclass(frozen=True, slots=True)
class Command:
    """
    What a caller wants to run. `timeout_s` is 1 to the server's maximum.

    `secrets` are set over `env`, reach the guest agent's memory only, and are shown nowhere.
    """

    command: str
    cwd: str = DEFAULT_CWD
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: int = 60
    stdin: str | None = field(default=None, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command left. `truncated` names the streams of which only the first 8 MiB were kept."""

    stdout: bytes
    stderr: bytes
    exited: ExecExited
    truncated: tuple[OutputStream, ...]


@dataclass(frozen=True, slots=True)
class RunningExec:
    """A command on its way. Closing `events` early detaches: it runs on until its own timeout."""

    id: ExecId
    events: AsyncGenerator[ExecEvent, None]


class RunCommand:
    """A sandbox that is paused and has `auto_resume` is resumed first."""

    def __init__(self, store: Store, node: Node, policy: Policy, awake: Awake, shielded: Shielded) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._awake = awake
        self._shielded = shielded

    async def start(self, tenant: TenantId, sandbox_id: SandboxId, command: Command) -> RunningExec:
        """
        Check, and return the command's events; it starts when the first one is asked for.

        Raises:
            InvalidRequest, TooLarge: A field is out of bounds.
            SandboxNotFound.
            StateConflict: The sandbox does not run.
            TerpError: It was paused and could not be resumed.

        The events raise in addition:
            LimitExceeded: The guest has no memory or processes left for it.
            StateConflict: The sandbox ended while the command ran; or it was paused, and the command goes on when it
                is resumed: the fields `command_id` and `offset` say what to attach to.
            GuestFault: The guest is lost, or silent for 30 s beyond the command's timeout.
        """
        request = self._request(command)
        await self._awake(tenant, sandbox_id)
        async with self._not_begun(tenant, sandbox_id):
            events = self._node.exec(sandbox_id, request)
        exec_id = request.exec_id
        return RunningExec(
            exec_id, watched(self._store, tenant, sandbox_id, exec_id, events, timeout_s=command.timeout_s)
        )

    async def attach(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> RunningExec:
        """
        Return the events of a command already started, its output from *offset* on, in bytes.

        Raises:
            InvalidRequest: *offset* is below 0.
            SandboxNotFound.
            StateConflict: The sandbox does not run.
            TerpError: It was paused and could not be resumed.

        The events raise as those of `start`, and in addition:
            ExecNotFound: There is no such command in this sandbox, or it has been forgotten.
        """
        if offset < 0:
            raise InvalidRequest(f"offset must not be below 0: {offset}")
        await self._awake(tenant, sandbox_id)
        async with self._not_begun(tenant, sandbox_id):
            events = self._node.attach(sandbox_id, exec_id, offset)
        return RunningExec(exec_id, watched(self._store, tenant, sandbox_id, exec_id, events, offset=offset))

    async def run(self, tenant: TenantId, sandbox_id: SandboxId, command: Command) -> ExecResult:
        """
        Run to the end and keep the output, 8 MiB of each stream. Cancelling detaches. Raises as `start`.

        The caller gets no output with an error: to attach after a pause begins at the beginning.
        """
        running = await self.start(tenant, sandbox_id, command)
        try:
            return await collect(running.events)
        except StateConflict as error:
            if "offset" in error.fields:
                error.fields["offset"] = 0
            raise
        finally:
            await running.events.aclose()

    async def run_attended(
        self, tenant: TenantId, sandbox_id: SandboxId, command: Command, kept: Kept
    ) -> tuple[ExecId, ExecResult]:
        """
        As `run`, for a caller without whom the command is of no use: cancelling kills it.

        Args:
            kept: The output as it comes, to look at meanwhile.
        """
        running = await self.start(tenant, sandbox_id, command)
        try:
            return running.id, await collect(running.events, kept)
        except asyncio.CancelledError:
            leave_to_die(self._node, self._shielded, sandbox_id, running.id)
            raise
        finally:
            await running.events.aclose()

    def _request(self, command: Command) -> ExecRequest:
        check_command(command.command)
        check_env(command.env)
        check_secrets(command.secrets)
        if not 1 <= command.timeout_s <= self._policy.max_timeout_s:
            raise InvalidRequest(f"timeout_seconds must be 1 to {self._policy.max_timeout_s}, not: {command.timeout_s}")
        return ExecRequest(
            exec_id=new_exec_id(),
            command=command.command,
            cwd=check_path(command.cwd, field="cwd"),
            env=command.env,
            timeout_s=float(command.timeout_s),
            stdin=None if command.stdin is None else _stdin(command.stdin),
            secrets=command.secrets,
        )

    def _not_begun(self, tenant: TenantId, sandbox_id: SandboxId) -> AbstractAsyncContextManager[None]:
        """Around what a node refuses at once."""
        during, todo = "before the command was reached", "resume it and try again"
        return explaining(self._store, tenant, sandbox_id, during, todo=todo, fields={})


async def watched(
    store: Store,
    tenant: TenantId,
    sandbox_id: SandboxId,
    exec_id: ExecId,
    events: AsyncIterator[ExecEvent],
    *,
    offset: int = 0,
    timeout_s: float | None = None,
) -> AsyncGenerator[ExecEvent, None]:
    """
    Yield a command's events to its last one, and say why where that does not come.

    *timeout_s* is the command's; None where that is not known, or it has none.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    seen = {"command_id": exec_id, "offset": offset}
    todo = "the command goes on when it is resumed: attach to it by its id and offset"
    try:
        while True:
            async with explaining(store, tenant, sandbox_id, "while the command ran", todo=todo, fields=seen):
                try:
                    # Counted anew for each event: who reads slowly holds the command back, and that is no fault.
                    late = None if deadline is None else max(deadline, loop.time()) + GRACE_S
                    async with asyncio.timeout_at(late):
                        event = await anext(events)
                except TimeoutError as error:
                    raise GuestFault("The guest did not report the end of the command in time") from error
                except StopAsyncIteration as error:
                    raise GuestFault("The guest stopped reporting on the command") from error
            if isinstance(event, ExecOutput):
                seen["offset"] = event.offset + len(event.data)
            yield event
            if isinstance(event, ExecExited):
                return
    finally:
        await close(events)


async def close(iterator: AsyncIterator[object]) -> None:
    """Close what a port returned; a plain iterator has nothing to close."""
    if isinstance(iterator, AsyncGenerator):
        await iterator.aclose()


async def collect(events: AsyncIterator[ExecEvent], kept: Kept | None = None) -> ExecResult:
    """Read *events* to the end and keep the output in *kept*, 8 MiB of each stream."""
    kept = {} if kept is None else kept
    for stream in OutputStream:
        kept.setdefault(stream, bytearray())
    truncated: dict[OutputStream, None] = {}
    async for event in events:
        if isinstance(event, ExecOutput):
            buffer = kept[event.stream]
            room = MAX_OUTPUT_BYTES - len(buffer)
            if room < len(event.data):
                truncated[event.stream] = None
            buffer += event.data[:room]
        elif isinstance(event, ExecExited):
            return ExecResult(
                bytes(kept[OutputStream.STDOUT]), bytes(kept[OutputStream.STDERR]), event, tuple(truncated)
            )
    raise GuestFault("The guest stopped reporting on the command")


def _stdin(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("stdin must be valid Unicode: it holds half of a surrogate pair") from error
    if len(data) > MAX_STDIN_BYTES:
        raise TooLarge(
            f"stdin may have {MAX_STDIN_BYTES} bytes at most; write a file and redirect it. It has: {len(data)}",
            fields={"limit": MAX_STDIN_BYTES},
        )
    return data
