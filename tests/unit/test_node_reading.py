"""Files, archives and watches when their guest's session ends: what goes on, and what says why it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.scripted_agent import Host, scripted_agent

from terpd.model.errors import FileNotFound, GuestFault, NotFound, StateConflict, TerpError, Unavailable
from terpd.model.guest import FileChange
from terpd.node import reading
from terpd.node.gate import Gate
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.frames import FrameType
from terpd.node.link import Link, going_on

CONTENT = bytes(range(200))


@dataclass
class Guest:
    """An agent with one file, of which each session gets `ready` bytes more; and with one watch, which says READY."""

    ready: int = 50
    modified_ns: int = 1_000
    asked: list[tuple[int, int]] = field(default_factory=list)
    watches: int = 0
    script: Callable[[Host, int, wire.Request], None] | None = None

    async def serve(self, host: Host) -> None:
        host.raw(await host.preface())
        while True:
            stream, request = await host.request()
            match request.WhichOneof("call"):
                case "hello":
                    reply = wire.HelloReply(wire_version=1, agent_version="0", state="awake", boot_id=bytes(16))
                    host.reply(stream, hello=reply)
                    host.end(stream)
                case "wake":
                    host.reply(stream, wake=wire.WakeReply())
                    host.end(stream)
                case _ if self.script is not None:
                    self.script(host, stream, request)
                case "file_read":
                    self._read(host, stream, request.file_read)
                case "file_watch":
                    self.watches += 1
                    host.reply(stream, file_event=wire.FileEvent(kind=wire.FileEvent.READY, path="/w", is_dir=True))
                case "file_archive":
                    host.send(stream, FrameType.DATA, bytes(512))

    def _read(self, host: Host, stream: int, ask: wire.FileRead) -> None:
        self.asked.append((ask.offset, ask.limit))
        end = min(len(CONTENT), ask.offset + ask.limit) if ask.limit else len(CONTENT)
        host.reply(stream, file=wire.FileInfo(name="f", size=len(CONTENT), modified_ns=self.modified_ns))
        piece = CONTENT[ask.offset : min(end, ask.offset + self.ready)]
        host.send(stream, FrameType.DATA, piece)
        if ask.offset + len(piece) == end:
            host.end(stream)


@dataclass
class Machine:
    guest: Guest
    gate: Gate
    link: Link

    async def captured(self) -> None:
        """As far as sessions are concerned."""
        await self.gate.close(timeout_s=10)
        await self.link.part()
        await self.link.connect(going_on(), fresh=False)
        self.gate.open()

    async def paused(self) -> None:
        await self.gate.close(timeout_s=10)
        await self.link.part()
        self.gate.refuse("The sandbox is paused")


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    guest = Guest()
    async with scripted_agent(tmp_path, guest.serve) as socket:
        link = Link("m", socket, lambda: True)
        await link.connect(None, fresh=True)
        yield Machine(guest, Gate(), link)
        await link.end()


@pytest.mark.parametrize(("offset", "limit"), [(0, None), (10, 150), (10, 190)])
async def test_a_file_is_read_on_behind_captures(machine: Machine, offset: int, limit: int | None) -> None:
    """Every byte once, from where it was cut, and no more than was asked for."""
    opened = await reading.open_file(machine.gate, machine.link, "/f", offset=offset, limit=limit)
    assert opened.info.size == len(CONTENT)
    received = b""
    async for chunk in opened.chunks:
        received += chunk
        if offset + len(received) < (offset + limit if limit else len(CONTENT)):
            await machine.captured()
    assert received == CONTENT[offset : None if limit is None else offset + limit]
    assert [start for start, _ in machine.guest.asked] == list(range(offset, offset + len(received), 50))


async def test_a_file_that_was_changed_is_not_read_on(machine: Machine) -> None:
    """Half of one and half of another would be neither."""
    opened = await reading.open_file(machine.gate, machine.link, "/f", offset=0, limit=None)
    assert await anext(opened.chunks) == CONTENT[:50]
    machine.guest.modified_ns += 5_000
    await machine.captured()
    with pytest.raises(Unavailable, match="changed"):
        await anext(opened.chunks)


async def test_a_pause_ends_what_is_read(machine: Machine) -> None:
    """With the gate's own words, for all kinds; and a capture does not wait for who reads slowly."""
    opened = await reading.open_file(machine.gate, machine.link, "/f", offset=0, limit=None)
    archive = reading.read_archive(machine.gate, machine.link, "/d")
    watch = reading.watch_files(machine.gate, machine.link, "/w", recursive=True)
    streams = (opened.chunks, archive, watch)
    for stream in streams:
        await anext(stream)
    await asyncio.wait_for(machine.paused(), 5)
    for stream in streams:
        with pytest.raises(StateConflict, match="is paused"):
            await anext(stream)


async def test_a_watch_tells_of_a_capture(machine: Machine) -> None:
    """OVERFLOW stands for what happened meanwhile; READY comes once."""
    watch = reading.watch_files(machine.gate, machine.link, "/w", recursive=True)
    assert (await anext(watch)).change is FileChange.READY
    for _ in range(2):
        coming = asyncio.ensure_future(anext(watch))
        await machine.captured()
        assert (await coming).change is FileChange.OVERFLOW
    assert machine.guest.watches == 3
    await watch.aclose()


async def test_an_archive_that_is_cut_says_so(machine: Machine) -> None:
    """It cannot be read on, and it is nobody's fault."""
    archive = reading.read_archive(machine.gate, machine.link, "/d")
    await anext(archive)
    coming = asyncio.ensure_future(anext(archive))
    await machine.captured()
    with pytest.raises(Unavailable, match="read it again"):
        await coming


def events(*replies: wire.FileEvent) -> Callable[[Host, int, wire.Request], None]:
    def say(host: Host, stream: int, request: wire.Request) -> None:
        for reply in replies:
            host.reply(stream, file_event=reply)

    return say


READY = wire.FileEvent(kind=wire.FileEvent.READY, path="/w")
# With a field of 1000 bytes that this wire does not know.
PADDED = wire.FileEvent.FromString(
    wire.FileEvent(kind=wire.FileEvent.CREATED, path="/w/x").SerializeToString() + b"\x9a\x06\xe8\x07" + bytes(1000)
)


@pytest.mark.parametrize(
    "replies",
    [
        (wire.FileEvent(kind=wire.FileEvent.CREATED, path="/w/x"),),
        (READY, READY),
        (READY, PADDED),
        (READY, wire.FileEvent(kind=99, path="/w/x")),
        (READY, wire.FileEvent(kind=wire.FileEvent.CREATED, path="relative")),
        (READY, wire.FileEvent(kind=wire.FileEvent.CREATED, path="")),
        (READY, wire.FileEvent(kind=wire.FileEvent.CREATED, path="/w/\0")),
        (READY, wire.FileEvent(kind=wire.FileEvent.CREATED, path="/" + "x" * 20_000)),
        (READY, wire.FileEvent(kind=wire.FileEvent.CREATED, path="/x", moved_from="/y")),
        (READY, wire.FileEvent(kind=wire.FileEvent.MOVED, path="/x", moved_from="y")),
    ],
)
async def test_events_that_cannot_be_true(machine: Machine, replies: tuple[wire.FileEvent, ...]) -> None:
    """They are the guest's fault and reach nobody."""
    machine.guest.script = events(*replies)
    told: list[FileChange] = []

    async def watch() -> None:
        async for event in machine.link.guest.watch_files("/w", recursive=True):
            told.append(event.change)  # noqa: PERF401  what came before the error counts

    with pytest.raises(GuestFault):
        await watch()
    assert told in ([], [FileChange.READY])


async def test_more_events_than_credit_end_the_session(machine: Machine) -> None:
    """A guest cannot fill the host's memory with what nobody reads."""
    machine.guest.script = events(READY, *[wire.FileEvent(kind=wire.FileEvent.MODIFIED, path="/w")] * 2000)
    watch = machine.link.guest.watch_files("/w", recursive=True)
    guest = machine.link.guest
    await anext(watch)
    assert "protocol" in (await asyncio.wait_for(guest.lost, 10)).detail


@pytest.mark.parametrize(("code", "error"), [(wire.Status.NOT_FOUND, FileNotFound), (wire.Status.INTERNAL, GuestFault)])
async def test_refusals_come_before_anything(machine: Machine, code: int, error: type[TerpError]) -> None:
    """At the first item, whatever was asked."""
    machine.guest.script = lambda host, stream, _: host.end(stream, code=code, message="\x1b[31m")
    for stream in (
        reading.watch_files(machine.gate, machine.link, "/w", recursive=False),
        reading.read_archive(machine.gate, machine.link, "/d"),
    ):
        with pytest.raises(error):
            await anext(stream)
    with pytest.raises(error):
        await reading.open_file(machine.gate, machine.link, "/f", offset=0, limit=None)


@pytest.mark.parametrize("written", [(2, 0), (1, 600), (2**63, 1)])
async def test_more_made_than_was_sent(machine: Machine, written: tuple[int, int]) -> None:
    """Counts that no stream of that length could come to, and an answer before its end."""
    files, size = written
    sent = asyncio.Event()
    answered: list[Callable[[], None]] = []

    async def one_block() -> AsyncIterator[bytes]:
        yield bytes(512)
        sent.set()

    def claim(host: Host, stream: int, _: wire.Request) -> None:
        def answer() -> None:
            host.reply(stream, written=wire.FileWritten(size=size, files=files))
            host.end(stream)

        answered.append(answer)

    machine.guest.script = claim
    writing = asyncio.create_task(machine.link.guest.write_archive("/workspace", one_block()))
    await sent.wait()
    await asyncio.sleep(0.01)  # the end of the data goes out with the next steps of the loop
    answered[0]()
    with pytest.raises(GuestFault):
        await writing


async def test_services_of_a_hostile_guest(machine: Machine) -> None:
    """Data before somebody listens, and behind its end, break the protocol; refusals are no fault."""
    machine.guest.script = lambda host, stream, _: host.end(stream, code=wire.Status.NOT_FOUND)
    with pytest.raises(NotFound):
        await machine.link.guest.connect_service("x").__aenter__()

    def ended_twice(host: Host, stream: int, _: wire.Request) -> None:
        host.reply(stream, connected=wire.Connected())
        for _ in range(2):
            host.send(stream, FrameType.DATA)

    machine.guest.script = ended_twice
    guest = machine.link.guest
    async with guest.connect_service("x") as stream:
        assert await stream.receive() is None
        await asyncio.wait_for(guest.lost, 10)
