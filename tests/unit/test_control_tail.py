"""Followers of one command's log: each has every byte, whoever else follows and however slowly."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from support.until import until

from terpd.control import tail
from terpd.control.tail import Tails
from terpd.model.errors import ExecNotFound, GuestFault, LogDropped, StateConflict
from terpd.model.guest import ExecEvent, ExecExited, ExecOutput, ExecStarted, LogPage, OutputStream
from terpd.model.ids import ExecId, SandboxId

SANDBOX = SandboxId("sbx_1")
COMMAND = ExecId("cmd_1")
EXITED = ExecExited(0, None, timed_out=False, duration_ms=1)


class LogNode:
    """
    A node with one command and its log, of which it keeps bytes `first` to `len(log)`.

    Attributes:
        error: Ends the streams under way, and what is asked next.
        pause: Awaited at random between two events or pages.
    """

    def __init__(self, seed: int = 0) -> None:
        self.log = bytearray()
        self.first = 0
        self.exited: ExecExited | None = None
        self.error: Exception | None = None
        self.reads = 0
        self.streams = 0
        self.streamed = 0
        self._random = random.Random(seed)
        self._changed = asyncio.Event()

    def write(self, data: bytes, *, keep: int | None = None) -> None:
        self.log += data
        if keep is not None:
            self.first = max(self.first, len(self.log) - keep)
        self.tell()

    def exit(self) -> None:
        self.exited = EXITED
        self.tell()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.tell()

    def tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read_log(self, _sandbox: SandboxId, _command: ExecId, offset: int, limit: int) -> LogPage:
        self.reads += 1
        for _ in range(self._random.randrange(3)):
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        offset = min(max(offset, self.first), len(self.log))
        return LogPage(bytes(self.log[offset : offset + limit]), self.first, offset, len(self.log), self.exited)

    async def attach(self, _sandbox: SandboxId, _command: ExecId, offset: int) -> AsyncIterator[ExecEvent]:
        self.streams += 1
        try:
            yield ExecStarted(7)
            while True:
                offset = max(offset, self.first)
                if self.error is not None:
                    raise self.error
                if data := bytes(self.log[offset : offset + self._random.randrange(1, 40_000)]):
                    self.streamed += len(data)
                    yield ExecOutput(OutputStream.STDOUT, data, offset)
                    offset += len(data)
                elif self.exited is not None:
                    yield self.exited
                    return
                else:
                    await self._changed.wait()
        finally:
            self.streams -= 1


async def drain(tails: Tails, offset: int, pauses: AsyncIterator[None] | None = None) -> bytes:
    """All output from *offset* to the end; the events are in order, without gap and overlap."""
    data = bytearray()
    async with aclosing(tails.follow(SANDBOX, COMMAND, offset)) as events:
        assert isinstance(await anext(events), ExecStarted)
        async for event in events:
            if isinstance(event, ExecOutput):
                assert event.offset == offset + len(data)
                assert 0 < len(event.data) <= tail.PIECE_BYTES
                data += event.data
                if pauses is not None:
                    await anext(pauses, None)
            else:
                assert event == EXITED
    return bytes(data)


async def pauses(rng: random.Random, most: int) -> AsyncIterator[None]:
    while True:
        for _ in range(rng.randrange(most)):
            await asyncio.sleep(0)
        yield


@pytest.mark.parametrize("seed", range(40))
async def test_each_follower_has_every_byte(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Of whatever pace, beginning anywhere at any time, and some leaving midway, with room for little."""
    rng = random.Random(seed)
    for name, size in (("BUFFER_BYTES", 5000), ("AHEAD_BYTES", 2000), ("PAGE_BYTES", 3000), ("PIECE_BYTES", 700)):
        monkeypatch.setattr(tail, name, rng.randrange(size // 4, size * 2))
    node = LogNode(seed)
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    followers: list[tuple[int, asyncio.Task[bytes]]] = []
    for _ in range(60):
        node.write(rng.randbytes(rng.randrange(4000)))
        if rng.random() < 0.4:
            offset = rng.randrange(len(node.log) + 1)
            pace = pauses(rng, rng.choice([1, 3, 30]))
            followers.append((offset, asyncio.create_task(drain(tails, offset, pace))))
        if followers and rng.random() < 0.1:
            _, leaver = followers.pop(rng.randrange(len(followers)))
            leaver.cancel()
        for _ in range(rng.randrange(20)):
            await asyncio.sleep(0)
    node.exit()

    for offset, task in followers:
        assert await task == bytes(node.log[offset:])
    await until(lambda: node.streams == 0)
    assert not tails._hubs


async def test_a_thousand_followers_share_one_stream() -> None:
    """Of one command that writes several MB: each has all of it, and the guest sends it little more than once."""
    node = LogNode()
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    sizes = [0] * 1000
    most = 0

    async def count(number: int) -> None:
        nonlocal most
        async for event in tails.follow(SANDBOX, COMMAND, 0):
            if isinstance(event, ExecOutput):
                assert event.offset == sizes[number]
                assert event.data == node.log[event.offset : event.offset + len(event.data)]
                sizes[number] += len(event.data)
                most = max(most, node.streams)

    tasks = [asyncio.create_task(count(number)) for number in range(1000)]
    for line in range(4):
        node.write(bytes([line]) * (1 << 20))
        await asyncio.sleep(0)
    node.exit()
    await asyncio.gather(*tasks)

    assert sizes == [4 << 20] * 1000
    assert most == 1
    assert node.streamed == 4 << 20
    assert node.reads < 100


async def test_who_does_not_read_slows_nobody() -> None:
    """One stands still while another reads megabytes; it goes on where it was, from pages of the log."""
    node = LogNode()
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    slow = tails.follow(SANDBOX, COMMAND, 0)
    assert isinstance(await anext(slow), ExecStarted)
    content = random.Random(1).randbytes(5 << 20)
    node.write(content)
    node.exit()

    assert await drain(tails, 0) == content
    reads = node.reads
    seen = b"".join([event.data async for event in slow if isinstance(event, ExecOutput)])

    assert seen == content
    assert node.reads > reads


async def test_nothing_is_pulled_that_nobody_wants() -> None:
    """A command that writes without end is not read much further than its fastest follower has got."""
    node = LogNode()
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    node.write(bytes(20 << 20))
    events = tails.follow(SANDBOX, COMMAND, 0)
    for _ in range(3):
        await anext(events)
    for _ in range(1000):
        await asyncio.sleep(0)

    assert node.streamed < 1 << 20
    await events.aclose()
    assert node.streams == 0


async def test_what_is_not_kept_any_more_is_an_error() -> None:
    """At the beginning, and where a slow follower has got to; others go on."""
    node = LogNode()
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    node.write(bytes(100))
    slow, fast = tails.follow(SANDBOX, COMMAND, 0), tails.follow(SANDBOX, COMMAND, 50)
    assert [type(await anext(slow)), type(await anext(fast))] == [ExecStarted, ExecStarted]
    assert len((await anext(slow)).data) == 100  # type: ignore[union-attr]  # it is output
    assert len((await anext(fast)).data) == 50  # type: ignore[union-attr]
    for _ in range(6):
        node.write(bytes(1 << 20), keep=2 << 20)
        behind = len(node.log)
        while (await anext(fast)).offset < behind - (1 << 16):  # type: ignore[union-attr]
            pass

    with pytest.raises(LogDropped) as caught:
        await anext(slow)
    assert caught.value.fields["first_offset"] == node.first
    with pytest.raises(LogDropped):
        await anext(tails.follow(SANDBOX, COMMAND, 5))
    node.exit()
    assert [type(event) async for event in fast][-1] is ExecExited


async def test_a_pause_ends_all_and_the_next_one_begins_anew() -> None:
    """Each follower has an error of its own; after that nothing is remembered of it."""
    node = LogNode()
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    node.write(b"before")
    followers = [tails.follow(SANDBOX, COMMAND, 0) for _ in range(3)]
    for events in followers:
        assert [type(await anext(events)), type(await anext(events))] == [ExecStarted, ExecOutput]
    waiting = [asyncio.create_task(anext(events)) for events in followers]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    node.fail(StateConflict("It was paused"))
    errors = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(error) for error in errors] == [StateConflict] * 3
    assert all(one is not other for one, other in itertools.combinations(errors, 2))
    node.error = None
    node.exit()
    assert await drain(tails, 3) == b"ore"


@pytest.mark.parametrize("error", [ExecNotFound("no such command"), GuestFault("lost"), ValueError("a bug")])
async def test_what_keeps_it_from_beginning_is_told(error: Exception) -> None:
    """Even a bug does not leave anyone waiting."""
    node = LogNode()
    node.fail(error)
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    with pytest.raises(type(error) if not isinstance(error, ValueError) else Exception, match=r"no such|lost|failed"):
        await anext(tails.follow(SANDBOX, COMMAND, 0))
    assert not tails._hubs


async def test_beyond_the_end_waits_for_what_comes() -> None:
    node = LogNode()
    node.write(b"12345")
    tails = Tails(node)  # type: ignore[arg-type]  # what it asks of a node
    following = asyncio.create_task(drain(tails, 8))
    await until(lambda: node.streams)
    node.write(b"67890")
    node.exit()
    assert await following == b"90"
