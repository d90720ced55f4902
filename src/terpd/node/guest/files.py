"""Files in the guest: read, write, list and the rest. Every call refuses early what the wire does not carry."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from terpd.model.errors import FileNotFound, InvalidRequest
from terpd.model.guest import MAX_PATH_BYTES, FileInfo
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import STALL_S, answer, ask, opened, received, send_all
from terpd.node.guest.channel import Channel
from terpd.node.guest.faults import bad_reply
from terpd.node.guest.inbox import Chunk
from terpd.node.guest.stream import MAX_OFFSET

MAX_NAME_BYTES = 3 * 255  # NAME_MAX of Linux, should each byte have become U+FFFD

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MODE_BITS = 0o7777


async def read(channel: Channel, path: str, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
    """As `Node.read_file`, from *offset* on."""
    async with aclosing(open_file(channel, path, offset=offset, limit=limit)) as items:
        async for item in items:
            if isinstance(item, bytes):
                yield item


async def open_file(
    channel: Channel, path: str, *, offset: int = 0, limit: int | None = None
) -> AsyncGenerator[FileInfo | bytes, None]:
    """Yield what the file is, then its bytes from *offset* on, as `Node.read_file`."""
    check_path(path)
    if not 0 <= offset <= MAX_OFFSET or (limit is not None and not 0 < limit <= MAX_OFFSET):
        raise InvalidRequest(f"An offset is 0 or more and a limit above 0: {offset}, {limit}")
    request = wire.Request(file_read=wire.FileRead(path=path, offset=offset, limit=limit or 0))
    async with opened(channel, request, timeout_s=STALL_S) as call:
        left = 0
        while (item := await received(call, timeout_s=STALL_S, subject=path)) is not None:
            if not isinstance(item, Chunk):
                info = _info(item.file)
                left = max(0, info.size - offset)
                if limit is not None:
                    left = min(left, limit)
                yield info
                continue
            left -= len(item.data)
            if left < 0:
                raise bad_reply("file_read", f"{-left} bytes more than the file has")
            yield item.data


async def write(channel: Channel, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
    """As `Node.write_file`. Nothing is changed when *chunks* raises or the caller is cancelled."""
    check_path(path)
    if not 0 <= mode <= _MODE_BITS:
        raise InvalidRequest(f"A mode has the bits 0o7777 at most: {mode:#o}")
    request = wire.Request(file_write=wire.FileWrite(path=path, mode=mode))
    async with opened(channel, request, timeout_s=STALL_S) as call:
        size = await send_all(call, chunks)
        reply = await answer(call, timeout_s=STALL_S, subject=path)
    if reply.written.size != size:
        raise bad_reply("file_write", f"{reply.written.size} bytes written of {size}")
    return size


async def entries(channel: Channel, path: str) -> Sequence[FileInfo]:
    """As `Node.list_files`: at most 100,000, in the guest's order."""
    check_path(path)
    request = wire.Request(file_list=wire.FileList(path=path))
    found: list[FileInfo] = []
    async with opened(channel, request, timeout_s=STALL_S) as call:
        while (item := await received(call, timeout_s=STALL_S, subject=path)) is not None:
            assert isinstance(item, wire.Reply)
            found.extend(_entry(entry) for entry in item.entries.entries)
    return found


async def stat(channel: Channel, path: str, *, follow: bool) -> FileInfo | None:
    """As `Node.stat_file`. *follow* resolves a final symlink."""
    check_path(path)
    request = wire.Request(file_stat=wire.FileStat(path=path, follow=follow))
    try:
        reply = await ask(channel, request, timeout_s=STALL_S, subject=path)
    except FileNotFound:
        return None
    return _info(reply.file, name=path.rstrip("/").rpartition("/")[2])


async def mkdir(channel: Channel, path: str, *, parents: bool) -> None:
    """As `Node.make_directory`."""
    check_path(path)
    request = wire.Request(file_mkdir=wire.FileMkdir(path=path, parents=parents))
    await ask(channel, request, timeout_s=STALL_S, subject=path)


async def move(channel: Channel, source: str, destination: str) -> None:
    """As `Node.move_file`."""
    check_path(source)
    check_path(destination)
    request = wire.Request(file_move=wire.FileMove(source=source, destination=destination))
    await ask(channel, request, timeout_s=STALL_S, subject=source)


async def remove(channel: Channel, path: str, *, recursive: bool) -> None:
    """As `Node.remove_file`."""
    check_path(path)
    request = wire.Request(file_remove=wire.FileRemove(path=path, recursive=recursive))
    await ask(channel, request, timeout_s=STALL_S, subject=path)


def check_path(path: str) -> None:
    """
    Raises:
        InvalidRequest: No absolute path that the wire carries.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("A path is UTF-8 text") from None
    if not path.startswith("/") or "\0" in path or size > MAX_PATH_BYTES:
        raise InvalidRequest(f"A path is absolute, without NUL and at most {MAX_PATH_BYTES} bytes long")


def _entry(entry: wire.FileInfo) -> FileInfo:
    name = entry.name
    if name in {"", ".", ".."} or "/" in name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
        raise bad_reply("file_list", f"a name of {len(name)} characters that no file has")
    return _info(entry, name=name)


def _info(info: wire.FileInfo, name: str = "") -> FileInfo:
    if info.size > MAX_OFFSET or info.mode > _MODE_BITS:
        raise bad_reply("file", f"size {info.size}, mode {info.mode:#o}")
    return FileInfo(
        name=name,
        is_dir=info.is_dir,
        size=info.size,
        mode=info.mode,
        modified_at=_EPOCH + dt.timedelta(microseconds=info.modified_ns // 1000),  # 64 bits of ns fit datetime
        is_symlink=info.is_symlink,
    )
