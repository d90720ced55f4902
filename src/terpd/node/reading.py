"""
What a guest is asked for and then sends for as long as it takes: opened while no capture is under way, and read on
without holding one up, which cuts it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from terpd.model.errors import GuestFault, Unavailable
from terpd.model.guest import FileChange, FileEvent, FileInfo, OpenFile
from terpd.node.gate import Gate
from terpd.node.guest.client import GuestClient
from terpd.node.link import Link, Parted

_T = TypeVar("_T")


async def begin(
    gate: Gate, link: Link, last: GuestClient | None, ask: Callable[[GuestClient], AsyncGenerator[_T, None]]
) -> tuple[GuestClient, _T, AsyncGenerator[_T, None]]:
    """
    Ask the guest, or, if *last* was lost, the guest of the session that follows it. A capture waits for the first item.

    Returns whom was asked, the first item and what follows it.

    Raises:
        StateConflict: The machine is held.
        GuestFault: It cannot be reached.
    """
    while True:
        try:
            async with gate.passing():
                guest = link.guest if last is None else await link.next(last)
                items = ask(guest)
                try:
                    return guest, await anext(items), items
                except BaseException as error:
                    await items.aclose()
                    if not isinstance(error, GuestFault) or not guest.lost.done():
                        raise
                    last = guest
        except Parted:  # a capture was faster: the gate says when that is over
            continue


async def cut(gate: Gate, guest: GuestClient, fault: GuestFault) -> None:
    """
    Return when *guest* was lost, which a capture that is over may have done.

    Raises:
        StateConflict: The machine is held now.
        GuestFault: It is at fault for this call, and was not lost.
    """
    if not guest.lost.done():
        raise fault
    await gate.passed()


async def open_file(gate: Gate, link: Link, path: str, *, offset: int, limit: int | None) -> OpenFile:
    """As `Node.open_file`."""
    guest, info, items = await begin(gate, link, None, lambda guest: guest.open_file(path, offset=offset, limit=limit))
    assert isinstance(info, FileInfo)
    return OpenFile(info, _chunks(gate, link, path, guest, info, items, offset, limit))


async def _chunks(
    gate: Gate,
    link: Link,
    path: str,
    guest: GuestClient,
    info: FileInfo,
    items: AsyncGenerator[FileInfo | bytes, None],
    offset: int,
    limit: int | None,
) -> AsyncGenerator[bytes, None]:
    end = None if limit is None else offset + limit
    while True:
        try:
            async with aclosing(items):
                async for item in items:
                    assert isinstance(item, bytes)
                    offset += len(item)
                    yield item
        except GuestFault as fault:
            await cut(gate, guest, fault)
        else:
            return
        left = None if end is None else end - offset
        if left == 0:
            return
        found: FileInfo | bytes
        at, rest = offset, left
        guest, found, items = await begin(
            gate,
            link,
            guest,
            lambda guest: guest.open_file(path, offset=at, limit=rest),  # noqa: B023  asked at once
        )
        if found != info:
            await items.aclose()
            raise Unavailable("The file was changed while the sandbox was being saved; read it again")


async def watch_files(gate: Gate, link: Link, path: str, *, recursive: bool) -> AsyncGenerator[FileEvent, None]:
    """As `Node.watch_files`. What happens while a snapshot is taken is told as OVERFLOW."""
    last: GuestClient | None = None
    while True:
        guest, ready, events = await begin(gate, link, last, lambda guest: guest.watch_files(path, recursive=recursive))
        try:
            async with aclosing(events):
                yield ready if last is None else FileEvent(FileChange.OVERFLOW, path, is_dir=False)
                async for event in events:
                    yield event
        except GuestFault as fault:
            await cut(gate, guest, fault)
            last = guest
        else:
            return


async def read_archive(gate: Gate, link: Link, path: str) -> AsyncGenerator[bytes, None]:
    """As `Node.read_archive`."""
    guest, first, chunks = await begin(gate, link, None, lambda guest: guest.read_archive(path))
    try:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk
    except GuestFault as fault:
        if gate.is_open:
            raise
        await cut(gate, guest, fault)
        raise Unavailable("The sandbox was saved while this was read; read it again") from fault
