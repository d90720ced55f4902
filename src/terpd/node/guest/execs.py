"""Commands in the guest: start, attach, signal."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from terpd.model.errors import InvalidRequest, TooLarge
from terpd.model.guest import (
    MAX_COMMAND_BYTES,
    MAX_PATH_BYTES,
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    ExecStarted,
    OutputStream,
    PtySize,
)
from terpd.model.ids import ExecId
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import ANSWER_S, PING, STALL_S, Silence, ask, opened, received
from terpd.node.guest.channel import Call, Channel
from terpd.node.guest.faults import bad_reply
from terpd.node.guest.inbox import Chunk
from terpd.node.guest.stream import MAX_OFFSET

QUIET_S = 30.0  # a command may be quiet for as long as it likes; its guest has to answer a ping this often
GRACE_S = 30.0  # from a command's timeout to the last word about it: 2 s to die, 0.5 s to drain, and emulation

_EXEC_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STREAMS = (OutputStream.STDOUT, OutputStream.STDERR)
_MAX_PTY = 1000  # columns or rows
_MAX_PID = 2**22  # PID_MAX_LIMIT of 64-bit Linux
_MAX_SIGNAL = 64  # SIGRTMAX
_MAX_TIMEOUT_S = 10 * 365 * 24 * 3600
_MAX_DURATION_MS = 2 * _MAX_TIMEOUT_S * 1000


def check_env(env: Mapping[str, str]) -> None:
    """
    Raises:
        InvalidRequest: A name or value that Linux cannot hand to a program.
    """
    for name, value in env.items():
        if not name or "=" in name or not _text(name) or not _text(value):
            raise InvalidRequest("Names in env are not empty and without '='; names and values are text without NUL")


async def run(channel: Channel, request: ExecRequest) -> AsyncIterator[ExecEvent]:
    """As `Node.exec`."""
    start = wire.Request(exec_start=_start(request))
    ends_at = None if request.timeout_s is None else asyncio.get_running_loop().time() + request.timeout_s
    async with opened(channel, start, timeout_s=STALL_S) as call:
        if request.stdin is not None:
            call.supply(request.stdin, finish=True)
        async with aclosing(_events(channel, call, request.exec_id, ends_at=ends_at)) as events:
            async for event in events:
                yield event


async def attach(
    channel: Channel, exec_id: ExecId, offset: int, *, stdin: bytes | None = None
) -> AsyncIterator[ExecEvent]:
    """
    As `Node.attach`: one ExecStarted again, then output from *offset* on.

    Waits for a command that is being started. *stdin* is the whole of what `run` was given; the guest is sent what it
    has not got of it, where the session ended before it had all.
    """
    check_id(exec_id)
    if not 0 <= offset <= MAX_OFFSET:
        raise InvalidRequest(f"An offset is 0 or more: {offset}")
    attach = wire.ExecAttach(exec_id=exec_id, offset=offset, stdin=stdin is not None)
    async with (
        opened(channel, wire.Request(exec_attach=attach), timeout_s=STALL_S) as call,
        aclosing(_events(channel, call, exec_id, floor=offset, stdin=stdin)) as events,
    ):
        async for event in events:
            yield event


async def send_signal(channel: Channel, exec_id: ExecId, signal: int) -> None:
    """As `Node.signal`. *signal* is 1 to 64."""
    check_id(exec_id)
    if not 1 <= signal <= _MAX_SIGNAL:
        raise InvalidRequest(f"A signal is a number from 1 to {_MAX_SIGNAL}: {signal}")
    request = wire.Request(exec_signal=wire.ExecSignal(exec_id=exec_id, signal=signal))
    await ask(channel, request, timeout_s=ANSWER_S, subject=exec_id)


async def _events(
    channel: Channel,
    call: Call,
    exec_id: ExecId,
    *,
    floor: int = 0,
    ends_at: float | None = None,
    stdin: bytes | None = None,
) -> AsyncGenerator[ExecEvent, None]:
    """
    Yield the call's events, the last one when the call is over.

    A quiet command is told from a dead guest by pings. *ends_at* (loop time) is when the guest itself ends the command;
    a guest that waits on, and has nothing to say for `GRACE_S` more, is at fault. Of *stdin* it is sent what it says it
    has not got.
    """
    loop = asyncio.get_running_loop()
    exited: ExecExited | None = None
    offset: int | None = None
    while True:
        left_s = math.inf if ends_at is None else max(ends_at - loop.time(), 0.0) + GRACE_S
        try:
            item = await received(call, timeout_s=min(QUIET_S, left_s), subject=exec_id)
        except Silence:
            if left_s <= QUIET_S:
                raise
            await ask(channel, PING, timeout_s=ANSWER_S)
            continue
        if item is None:
            if exited is not None:
                yield exited
            return
        if isinstance(item, Chunk):
            if offset is None:
                offset = call.stream.first_offset or 0
                if offset < floor:
                    raise bad_reply(call.stream.call, f"output from offset {offset}, asked for {floor}")
            yield ExecOutput(_STREAMS[item.source], item.data, offset)
            offset += len(item.data)
        elif item.HasField("exec_started"):
            started = started_of(item.exec_started)
            _supply_rest(call, stdin, item.exec_started.stdin_offset)
            yield started
        else:
            exited = exited_of(item.exec_exited)


def _supply_rest(call: Call, stdin: bytes | None, offset: int) -> None:
    if stdin is None:
        return
    if offset > len(stdin):
        raise bad_reply(call.stream.call, f"{offset} bytes of stdin")
    call.supply(stdin[offset:], finish=True)


def _start(request: ExecRequest) -> wire.ExecStart:
    check_id(request.exec_id)
    if bool(request.command) == bool(request.argv):
        raise InvalidRequest("Either a command or argv is needed, and not both")
    for argument in (request.command, *request.argv):
        if not _text(argument):
            raise InvalidRequest("A command and its arguments are text without NUL")
        if len(argument.encode()) > MAX_COMMAND_BYTES:
            raise TooLarge(f"A command and each argument have at most {MAX_COMMAND_BYTES} bytes; use a file for more")
    if not request.cwd.startswith("/") or not _text(request.cwd) or len(request.cwd.encode()) > MAX_PATH_BYTES:
        raise InvalidRequest(f"cwd is an absolute path of at most {MAX_PATH_BYTES} bytes")
    if request.timeout_s is not None and not 0 < request.timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidRequest(f"A timeout is above 0 and at most {_MAX_TIMEOUT_S} seconds: {request.timeout_s}")
    check_env(request.env)
    check_env(request.secrets)
    return wire.ExecStart(
        exec_id=request.exec_id,
        command=request.command,
        argv=request.argv,
        cwd=request.cwd,
        env=request.env,
        timeout_ms=0 if request.timeout_s is None else math.ceil(request.timeout_s * 1000),
        stdin=request.stdin is not None,
        secrets=request.secrets,
        background=request.background,
        pty=None if request.pty is None else check_pty(request.pty),
    )


def check_pty(size: PtySize) -> wire.Pty:
    """
    Raises:
        InvalidRequest: No terminal has that size.
    """
    if not 1 <= size.cols <= _MAX_PTY or not 1 <= size.rows <= _MAX_PTY:
        raise InvalidRequest(f"A terminal has 1 to {_MAX_PTY} columns and rows: {size.cols}, {size.rows}")
    return wire.Pty(cols=size.cols, rows=size.rows)


def started_of(reply: wire.ExecStarted) -> ExecStarted:
    """Raises GuestFault for what cannot be true."""
    if not 0 < reply.pid <= _MAX_PID:
        raise bad_reply("exec", f"pid {reply.pid}")
    return ExecStarted(pid=reply.pid)


def exited_of(reply: wire.ExecExited) -> ExecExited:
    """Raises GuestFault for what cannot be true."""
    code, signal = reply.exit_code, reply.signal
    if signal > _MAX_SIGNAL or not 0 <= code <= 255 or (signal and code != 128 + signal):
        raise bad_reply("exec", f"exit code {code}, signal {signal}")
    if reply.duration_ms > _MAX_DURATION_MS:
        raise bad_reply("exec", f"duration of {reply.duration_ms} ms")
    return ExecExited(
        exit_code=code,
        signal=signal or None,
        timed_out=reply.timed_out,
        duration_ms=reply.duration_ms,
        oom_killed=reply.oom_killed,
    )


def check_id(exec_id: str) -> None:
    """
    Raises:
        InvalidRequest: The wire does not carry it.
    """
    if not _EXEC_ID.fullmatch(exec_id):
        raise InvalidRequest("An exec id has 1 to 64 of A-Z, a-z, 0-9, _ and -")


def _text(value: str) -> bool:
    """Whether *value* can be handed to a program: no NUL, and no lone surrogate."""
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
