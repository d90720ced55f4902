"""Trees of a guest's files as tar streams. What is in a stream is not looked at here: it is bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from terpd.model.guest import Extracted
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import STALL_S, answer, opened, received, send_all
from terpd.node.guest.channel import Channel
from terpd.node.guest.faults import bad_reply
from terpd.node.guest.files import check_path
from terpd.node.guest.inbox import Chunk

_BLOCK_BYTES = 512  # of a tar stream: each entry has one at least


async def read(channel: Channel, path: str) -> AsyncGenerator[bytes, None]:
    """As `Node.read_archive`."""
    check_path(path)
    request = wire.Request(file_archive=wire.FileArchive(path=path))
    async with opened(channel, request, timeout_s=STALL_S) as call:
        while (item := await received(call, timeout_s=STALL_S, subject=path)) is not None:
            assert isinstance(item, Chunk)
            yield item.data


async def write(channel: Channel, path: str, chunks: AsyncIterator[bytes]) -> Extracted:
    """As `Node.write_archive`. What was made stays when *chunks* raises or the caller is cancelled."""
    check_path(path)
    request = wire.Request(file_extract=wire.FileExtract(path=path))
    async with opened(channel, request, timeout_s=STALL_S) as call:
        sent = await send_all(call, chunks)
        reply = (await answer(call, timeout_s=STALL_S, subject=path)).written
    if reply.size > sent or reply.files * _BLOCK_BYTES > sent:
        raise bad_reply("file_extract", f"{reply.files} entries and {reply.size} bytes made of {sent} bytes")
    return Extracted(files=reply.files, size=reply.size)
