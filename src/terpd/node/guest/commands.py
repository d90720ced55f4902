"""Commands that nobody needs to follow: listed, their logs read, typed into, resized."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from terpd.model.errors import InvalidRequest
from terpd.model.guest import MAX_INPUT_BYTES, MAX_LOG_READ_BYTES, CommandInfo, LogPage, PtySize
from terpd.model.ids import ExecId, parse_exec_id
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import ANSWER_S, STALL_S, ask, opened, received
from terpd.node.guest.channel import Channel
from terpd.node.guest.execs import check_id, check_pty, exited_of, started_of
from terpd.node.guest.faults import bad_reply
from terpd.node.guest.inbox import Chunk
from terpd.node.guest.stream import MAX_OFFSET

MAX_SHOWN_BYTES = 4096  # of a command

_INPUT_S = 15.0  # the guest waits 5 s for room
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


async def entries(channel: Channel) -> Sequence[CommandInfo]:
    """As `Node.list_commands`."""
    found: list[CommandInfo] = []
    async with opened(channel, wire.Request(exec_list=wire.ExecList()), timeout_s=ANSWER_S) as call:
        while (item := await received(call, timeout_s=ANSWER_S)) is not None:
            assert isinstance(item, wire.Reply)
            found.extend(_entry(entry) for entry in item.exec_entries.entries)
    if len({info.exec_id for info in found}) != len(found):
        raise bad_reply("exec_list", "one command twice")
    return found


async def read_log(channel: Channel, exec_id: ExecId, offset: int, limit: int) -> LogPage:
    """As `Node.read_log`."""
    check_id(exec_id)
    if not 0 <= offset <= MAX_OFFSET or not 1 <= limit <= MAX_LOG_READ_BYTES:
        raise InvalidRequest(f"An offset is 0 or more, a limit 1 to {MAX_LOG_READ_BYTES}: {offset}, {limit}")
    request = wire.Request(exec_log=wire.ExecLog(exec_id=exec_id, offset=offset, limit=limit))
    info: wire.ExecLogInfo | None = None
    data = bytearray()
    async with opened(channel, request, timeout_s=STALL_S) as call:
        while (item := await received(call, timeout_s=STALL_S, subject=exec_id)) is not None:
            if isinstance(item, Chunk):
                data += item.data
                if len(data) > limit:  # before more of it comes
                    raise bad_reply("exec_log", f"more than {limit} bytes")
            else:
                info = item.exec_log
    assert info is not None  # the grammar lets no call end before it
    return _page(info, bytes(data), offset)


async def send_input(
    channel: Channel, exec_id: ExecId, data: bytes, *, offset: int | None = None, close: bool = False
) -> int:
    """As `Node.send_input`."""
    check_id(exec_id)
    if len(data) > MAX_INPUT_BYTES:
        raise InvalidRequest(f"At most {MAX_INPUT_BYTES} bytes are written at once: {len(data)}")
    if offset is not None and not 0 <= offset <= MAX_OFFSET - len(data):
        raise InvalidRequest(f"An offset is 0 or more: {offset}")
    typing = wire.ExecInput(exec_id=exec_id, offset=offset, data=data, close=close)
    reply = await ask(channel, wire.Request(exec_input=typing), timeout_s=_INPUT_S, subject=exec_id)
    accepted = reply.exec_input.offset
    if not (offset or 0) + len(data) <= accepted <= MAX_OFFSET:
        raise bad_reply("exec_input", f"{accepted} bytes accepted")
    return accepted


async def resize_pty(channel: Channel, exec_id: ExecId, size: PtySize) -> None:
    """As `Node.resize_pty`."""
    check_id(exec_id)
    resize = wire.ExecResize(exec_id=exec_id, size=check_pty(size))
    await ask(channel, wire.Request(exec_resize=resize), timeout_s=ANSWER_S, subject=exec_id)


def _entry(entry: wire.ExecEntry) -> CommandInfo:
    exec_id = parse_exec_id(entry.exec_id)
    if exec_id is None:
        raise bad_reply("exec_list", f"an id of {len(entry.exec_id)} characters")
    if len(entry.command.encode()) > MAX_SHOWN_BYTES:
        raise bad_reply("exec_list", f"a command of {len(entry.command)} characters")
    return CommandInfo(
        exec_id=exec_id,
        command=entry.command,
        pid=started_of(wire.ExecStarted(pid=entry.pid)).pid,
        started_at=_time(entry.started_ns),
        pty=entry.pty,
        exited=exited_of(entry.exited) if entry.HasField("exited") else None,
    )


def _page(info: wire.ExecLogInfo, data: bytes, asked: int) -> LogPage:
    if not info.first_offset <= info.size <= MAX_OFFSET:
        raise bad_reply("exec_log", f"a log from {info.first_offset} to {info.size}")
    # Where it was asked for, or where the log begins now; of what is not written yet there is nothing.
    if info.offset != max(asked, info.first_offset) and not (asked > info.size and info.offset == info.size):
        raise bad_reply("exec_log", f"bytes from {info.offset}, asked for {asked}")
    if data and info.offset + len(data) > info.size:
        raise bad_reply("exec_log", f"{len(data)} bytes at {info.offset} of {info.size}")
    exited = exited_of(info.exited) if info.HasField("exited") else None
    return LogPage(data, info.first_offset, info.offset, info.size, exited)


def _time(nanoseconds: int) -> dt.datetime:
    try:
        return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        raise bad_reply("exec_list", f"started {nanoseconds} ns after the epoch") from None
