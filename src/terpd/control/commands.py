"""Commands in the background: started, looked up, ended, and their logs read or followed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from terpd.control.awake import Awake
from terpd.control.checks import check_command, check_env, check_path, check_secrets
from terpd.control.clock import Clock
from terpd.control.end_command import end_command, find_command
from terpd.control.ended import explaining
from terpd.control.exec import RunningExec, close, watched
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.tail import Tails, dropped
from terpd.model.errors import FollowTimeout, GuestFault, InvalidRequest, TerpError
from terpd.model.guest import (
    DEFAULT_CWD,
    MAX_LOG_READ_BYTES,
    CommandInfo,
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    ExecStarted,
    LogPage,
)
from terpd.model.ids import ExecId, SandboxId, TenantId, new_exec_id
from terpd.model.ports import Node, Store

DURING = "while its commands were in use"
TODO = "resume it and try again"

_READS = 3


@dataclass(frozen=True, slots=True)
class BackgroundCommand:
    """What a caller wants to run in the background; as `exec.Command`, without an end."""

    command: str
    cwd: str = DEFAULT_CWD
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class Commands:
    """
    They live in the guest, which lists them until some time after their end: 256 at most, terminals included.

    A sandbox that is paused and has `auto_resume` is resumed first. Every method raises SandboxNotFound; StateConflict
    unless the sandbox runs; GuestFault; TerpError where it was paused and could not be resumed.
    """

    def __init__(
        self, store: Store, node: Node, policy: Policy, awake: Awake, clock: Clock, shielded: Shielded
    ) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._awake = awake
        self._clock = clock
        self._shielded = shielded
        self._tails = Tails(node)

    async def start(self, tenant: TenantId, sandbox_id: SandboxId, command: BackgroundCommand) -> CommandInfo:
        """
        Return when it runs; if the caller goes away, it does all the same.

        Raises:
            InvalidRequest, TooLarge: A field is out of bounds, or there is no such cwd.
            LimitExceeded: The guest has no room for it.
        """
        check_command(command.command)
        check_env(command.env)
        check_secrets(command.secrets)
        request = ExecRequest(
            exec_id=new_exec_id(),
            command=command.command,
            cwd=check_path(command.cwd, field="cwd"),
            env=command.env,
            timeout_s=None,
            secrets=command.secrets,
            background=True,
        )
        async with self._running(tenant, sandbox_id):
            return await self._shielded.run(start_unfollowed(self._node, self._clock, sandbox_id, request))

    async def list(self, tenant: TenantId, sandbox_id: SandboxId) -> Sequence[CommandInfo]:
        """Oldest first."""
        async with self._running(tenant, sandbox_id):
            return [each for each in await self._node.list_commands(sandbox_id) if not each.pty]

    async def get(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId) -> CommandInfo:
        """Raises ExecNotFound."""
        async with self._running(tenant, sandbox_id):
            return await find_command(self._node, sandbox_id, exec_id, pty=False)

    async def kill(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId) -> None:
        """
        SIGTERM to its process group, and SIGKILL 2 s later to what has not ended. Returns when the command has.

        Raises ExecNotFound.
        """
        async with self._running(tenant, sandbox_id):
            await end_command(self._node, self._shielded, sandbox_id, exec_id, signal.SIGTERM, pty=False)

    async def read_log(self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> LogPage:
        """
        Return at most `MAX_LOG_READ_BYTES` from *offset* on.

        Raises:
            ExecNotFound.
            LogDropped: What was at *offset* is not kept any more.
        """
        check_offset(offset)
        async with self._running(tenant, sandbox_id):
            for _ in range(_READS):
                page = await self._node.read_log(sandbox_id, exec_id, offset, MAX_LOG_READ_BYTES)
                if page.first_offset > offset:
                    raise dropped(page)
                if page.data or offset >= page.size:
                    return page
                # It was dropped while it was being sent: asked again, the guest says from where there is more.
        raise GuestFault("The guest's log has no bytes where it says that there are some")

    async def follow(
        self, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId, offset: int, timeout_s: int
    ) -> RunningExec:
        """
        Return the log from *offset* on as events: ExecStarted, output, and ExecExited once the command has ended.

        The events raise:
            ExecNotFound.
            LogDropped: What was at *offset*, or where a slow reader has got to, is not kept any more.
            FollowTimeout: The command runs still after *timeout_s*.
            StateConflict: The sandbox was paused or has ended; `offset` says where to go on.
        """
        check_offset(offset)
        if not 1 <= timeout_s <= self._policy.max_timeout_s:
            raise InvalidRequest(f"timeout_seconds must be 1 to {self._policy.max_timeout_s}, not: {timeout_s}")
        await self._awake(tenant, sandbox_id)
        tail = self._tails.follow(sandbox_id, exec_id, offset)
        events = watched(self._store, tenant, sandbox_id, exec_id, tail, offset=offset)
        return RunningExec(exec_id, _for_a_time(events, exec_id, offset, timeout_s))

    @contextlib.asynccontextmanager
    async def _running(self, tenant: TenantId, sandbox_id: SandboxId) -> AsyncIterator[None]:
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, DURING, todo=TODO, fields={}):
            yield


async def start_unfollowed(node: Node, clock: Clock, sandbox_id: SandboxId, request: ExecRequest) -> CommandInfo:
    """Start a background command or a terminal, and return how it is listed."""
    events = node.exec(sandbox_id, request)
    try:
        started = await anext(events)
    except StopAsyncIteration as error:
        raise GuestFault("The guest did not say whether it started the command") from error
    finally:
        await close(events)
    assert isinstance(started, ExecStarted)  # as the port promises
    with contextlib.suppress(TerpError):  # it runs, and has nobody's word but ours then
        for listed in await node.list_commands(sandbox_id):
            if listed.exec_id == request.exec_id:
                return listed
    return CommandInfo(
        exec_id=request.exec_id,
        command=request.command,
        pid=started.pid,
        started_at=clock.now(),
        pty=request.pty is not None,
        exited=None,
    )


def check_offset(offset: int) -> None:
    if offset < 0:
        raise InvalidRequest(f"offset must not be below 0: {offset}")


async def _for_a_time(
    events: AsyncGenerator[ExecEvent, None], exec_id: ExecId, offset: int, timeout_s: int
) -> AsyncGenerator[ExecEvent, None]:
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    try:
        while True:
            try:
                async with asyncio.timeout_at(until):
                    event = await anext(events)
            except TimeoutError as error:
                raise _timed_out(exec_id, offset, timeout_s) from error
            if isinstance(event, ExecOutput):
                offset = event.offset + len(event.data)
            yield event
            if isinstance(event, ExecExited):
                return
            if loop.time() >= until:
                raise _timed_out(exec_id, offset, timeout_s)
    finally:
        await events.aclose()


def _timed_out(exec_id: ExecId, offset: int, timeout_s: int) -> FollowTimeout:
    return FollowTimeout(
        f"The log was followed for {timeout_s} s and the command runs on; follow it again from the offset",
        fields={"command_id": exec_id, "offset": offset},
    )
