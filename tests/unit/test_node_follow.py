"""A command's stream when its guest's session ends and another begins: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.scripted_agent import Host, scripted_agent
from support.until import until

from terpd.model.errors import ExecNotFound, GuestFault, StateConflict
from terpd.model.guest import ExecEvent, ExecExited, ExecOutput, ExecRequest, ExecStarted
from terpd.model.ids import new_exec_id
from terpd.node import follow
from terpd.node.gate import Gate
from terpd.node.guest import agent_pb2 as wire
from terpd.node.link import Link, going_on

PIECES = [bytes([number]) * 10 for number in range(20)]


@dataclass
class Guest:
    """
    An agent with one command, whose output is PIECES: `ready` says how many of them there are.

    Fault to set: `deaf_to_starts` ends the session at the next ExecStart instead of serving it.
    """

    ready: int = 0
    exec_id: str = ""
    starts: int = 0
    attached: list[int] = field(default_factory=list)
    sessions: list[Host] = field(default_factory=list)
    deaf_to_starts: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _sending: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, host: Host) -> None:
        self.sessions.append(host)
        host.raw(await host.preface())
        try:
            while True:
                stream, request = await host.request()
                if not self._answer(host, stream, request):
                    return
        finally:
            for task in self._sending:
                task.cancel()

    def _answer(self, host: Host, stream: int, request: wire.Request) -> bool:
        match request.WhichOneof("call"):
            case "hello":
                reply = wire.HelloReply(wire_version=1, agent_version="0", state="awake", boot_id=bytes(16))
                host.reply(stream, hello=reply)
                host.end(stream)
            case "wake":
                host.reply(stream, wake=wire.WakeReply())
                host.end(stream)
            case "exec_start":
                if self.deaf_to_starts:
                    self.deaf_to_starts = False
                    return False
                self.starts += 1
                self.exec_id = request.exec_start.exec_id
                self._send(host, stream, 0)
            case "exec_attach":
                if request.exec_attach.exec_id != self.exec_id:
                    host.end(stream, code=wire.Status.NOT_FOUND)
                else:
                    self.attached.append(request.exec_attach.offset)
                    self._send(host, stream, request.exec_attach.offset)
        return True

    def _send(self, host: Host, stream: int, offset: int) -> None:
        async def send() -> None:
            host.reply(stream, exec_started=wire.ExecStarted(pid=7))
            at = offset // 10
            while at < len(PIECES):
                if at < self.ready:
                    host.reply(stream, exec_output=wire.ExecOutput(data=PIECES[at], offset=10 * at))
                    at += 1
                else:
                    self.changed.clear()
                    await self.changed.wait()
            host.reply(stream, exec_exited=wire.ExecExited())
            host.end(stream)

        task = asyncio.create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def write(self, pieces: int) -> None:
        self.ready = pieces
        self.changed.set()


@dataclass
class Machine:
    guest: Guest
    gate: Gate
    link: Link

    def run(self) -> AsyncGenerator[ExecEvent, None]:
        return follow.run(self.gate, self.link, ExecRequest(exec_id=new_exec_id(), command="x"))

    async def captured(self) -> None:
        """As far as sessions are concerned."""
        await self.gate.close(timeout_s=10)
        await self.link.part()
        await self.link.connect(going_on(), fresh=False)
        self.gate.open()


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with made(tmp_path) as machine:
        yield machine


@asynccontextmanager
async def made(directory: Path) -> AsyncIterator[Machine]:
    guest = Guest()
    async with scripted_agent(directory, guest.serve) as socket:
        link = Link("m", socket, lambda: True)
        await link.connect(None, fresh=True)
        yield Machine(guest, Gate(), link)
        await link.end()


async def collect(events: AsyncIterator[ExecEvent]) -> list[ExecEvent]:
    return [event async for event in events]


def output(events: list[ExecEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, ExecOutput))


@pytest.mark.parametrize("times", [1, 3])
async def test_a_stream_goes_on_behind_a_capture(machine: Machine, times: int) -> None:
    """One start, all output once, one end."""
    reading = asyncio.create_task(collect(machine.run()))
    for number in range(times):
        machine.guest.write(3 * number + 2)
        await until(lambda: machine.guest.starts)
        await machine.captured()
        await until(lambda: len(machine.guest.attached) > number)  # noqa: B023  awaited here
    machine.guest.write(len(PIECES))
    events = await reading

    assert isinstance(events[0], ExecStarted)
    assert isinstance(events[-1], ExecExited)
    assert output(events) == b"".join(PIECES)
    assert sum(isinstance(event, ExecStarted) for event in events) == 1
    assert machine.guest.starts == 1


async def test_a_stream_goes_on_when_its_session_broke(machine: Machine) -> None:
    """By itself, while nobody captured anything."""
    reading = asyncio.create_task(collect(machine.run()))
    machine.guest.write(5)
    await until(lambda: machine.guest.starts)
    machine.link.guest._channel.fail("for the test")
    await until(lambda: machine.guest.attached)
    machine.guest.write(len(PIECES))

    assert output(await reading) == b"".join(PIECES)


async def test_who_reads_slowly_is_attached_again_all_the_same(machine: Machine) -> None:
    """A guest drops what nobody fetches: so that must not wait until the consumer asks for more."""
    machine.guest.write(15)
    async with aclosing(machine.run()) as events:
        seen = [await anext(events)]
        await machine.captured()
        await until(lambda: machine.guest.attached)
        machine.guest.write(len(PIECES))
        seen += await collect(events)

    assert output(seen) == b"".join(PIECES)


async def test_a_paused_sandboxes_stream_ends_with_a_conflict(machine: Machine) -> None:
    """After all that had arrived; it says how to go on."""
    events = machine.run()
    machine.guest.write(2)
    seen = [await anext(events)]
    while output(seen) != b"".join(PIECES[:2]):
        seen.append(await anext(events))
    await machine.gate.close(timeout_s=10)
    await machine.link.part()
    machine.gate.refuse("The sandbox is paused")
    with pytest.raises(StateConflict, match="paused"):
        await anext(events)


async def test_a_guest_that_does_not_come_back_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terpd.node.link._RETURN_S", 0.05)
    monkeypatch.setattr("terpd.node.link._RECONNECT_S", (1000.0,))
    reading = asyncio.create_task(collect(machine.run()))
    await until(lambda: machine.guest.starts)
    machine.link.guest._channel.fail("for the test")

    with pytest.raises(GuestFault, match="for the test"):
        await reading


async def test_a_machine_that_ends_ends_its_streams(machine: Machine) -> None:
    """At once."""
    reading = asyncio.create_task(collect(machine.run()))
    await until(lambda: machine.guest.starts)
    await machine.link.end()

    with pytest.raises(GuestFault):
        await reading


async def test_a_start_that_was_lost_is_made_again(machine: Machine) -> None:
    """The guest knows no such command, so it did not run."""
    machine.guest.deaf_to_starts = True
    machine.guest.write(len(PIECES))

    assert output(await collect(machine.run())) == b"".join(PIECES)
    assert machine.guest.starts == 1


async def test_attaching_to_what_is_not_there_is_an_error(machine: Machine) -> None:
    with pytest.raises(ExecNotFound):
        await collect(follow.attach(machine.gate, machine.link, new_exec_id(), 0))


async def test_attaching_goes_on_behind_a_capture_too(machine: Machine) -> None:
    machine.guest.write(5)
    async with aclosing(machine.run()) as events:
        await anext(events)
        exec_id = machine.guest.exec_id
    reading = asyncio.create_task(collect(follow.attach(machine.gate, machine.link, exec_id, 20)))  # type: ignore[arg-type]
    await until(lambda: 20 in machine.guest.attached)
    await machine.captured()
    await until(lambda: len(machine.guest.attached) == 2)
    machine.guest.write(len(PIECES))

    assert output(await reading) == b"".join(PIECES[2:])


async def test_a_closed_gate_holds_a_start_back(machine: Machine) -> None:
    """Until it opens; a capture waits for one that began before."""
    await machine.gate.close(timeout_s=10)
    reading = asyncio.create_task(collect(machine.run()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert machine.guest.starts == 0
    machine.guest.write(len(PIECES))
    machine.gate.open()

    assert output(await reading) == b"".join(PIECES)
