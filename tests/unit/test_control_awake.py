"""Using a paused sandbox: it wakes if it may, and says what to do if not; commands outlive pauses."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT

from terpd.control.awake import LOOK_S, SETTLES_S
from terpd.control.exec import Command
from terpd.control.files import FileToWrite
from terpd.model.errors import (
    CapacityUnavailable,
    DeadlineExceeded,
    ExecNotFound,
    InvalidRequest,
    PlanLimit,
    StateConflict,
    StorageFull,
)
from terpd.model.guest import ExecExited, ExecOutput
from terpd.model.ids import ExecId, new_exec_id, new_state_id
from terpd.model.ports import Change
from terpd.model.sandbox import Sandbox, Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, dataclasses.replace(POLICY, max_concurrent=2)) as world:
        yield world


async def test_uses_wake_it(world: Controlled) -> None:
    """Commands, files read and written, streams: all of them resume first."""
    sandbox = await world.create(auto_resume=True)
    await world.services.files.write(TENANT, sandbox.id, FileToWrite("/workspace/a", b"1"))

    async def streamed() -> bytes:
        chunks = await world.services.files.stream(TENANT, sandbox.id, "/workspace/a")
        return b"".join([chunk async for chunk in chunks])

    async def written() -> int:
        return await world.services.files.write(TENANT, sandbox.id, FileToWrite("/workspace/b", b"2"))

    uses = [lambda: world.run(sandbox.id, "pwd"), streamed, written]
    for use in uses:
        await world.services.pause(TENANT, sandbox.id)
        await use()
        assert await world.status(sandbox.id) is Status.RUNNING


async def test_it_may_not_wake(world: Controlled) -> None:
    """Then the caller hears what to do, and it sleeps on."""
    sandbox = await world.paused()
    with pytest.raises(StateConflict, match="resume it first"):
        await world.run(sandbox.id, "pwd")
    assert await world.status(sandbox.id) is Status.PAUSED


async def test_many_uses_at_once(world: Controlled) -> None:
    """One machine is started for all."""
    sandbox = await world.paused(auto_resume=True)
    results = await asyncio.gather(*(world.run(sandbox.id, f"echo {n}") for n in range(8)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(8)]


async def test_no_room_to_wake(world: Controlled) -> None:
    """The same answers as of a resume: of the node, and of the plan."""
    sandbox = await world.paused(auto_resume=True)
    world.node.start_error = CapacityUnavailable("full")
    with pytest.raises(CapacityUnavailable):
        await world.run(sandbox.id, "pwd")
    world.node.start_error = None
    await world.create()
    await world.create()
    with pytest.raises(PlanLimit):
        await world.run(sandbox.id, "pwd")


@pytest.mark.parametrize("failure", [None, StorageFull("full")])
async def test_use_while_it_is_paused(world: Controlled, failure: StorageFull | None) -> None:
    """It waits for the pause's end, and goes on whether that succeeded or not."""
    sandbox = await world.create(auto_resume=True)
    world.node.capture_gate.clear()
    world.node.capture_error = failure
    pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
    await world.node.capturing.wait()
    running = asyncio.create_task(world.run(sandbox.id, "echo on"))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not running.done()
    world.node.capture_gate.set()
    await asyncio.gather(pausing, return_exceptions=True)
    assert (await running).stdout == b"on\n"


async def test_use_as_the_pause_ends(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded as paused, and its machine is just being stopped: it wakes after that."""
    sandbox = await world.create(auto_resume=True)
    stop_machine, stopping, go_on = world.node.stop_machine, asyncio.Event(), asyncio.Event()

    async def slow(*args: object) -> None:
        stopping.set()
        await go_on.wait()
        await stop_machine(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(world.node, "stop_machine", slow)
    pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
    await stopping.wait()
    running = asyncio.create_task(world.run(sandbox.id, "echo on"))
    await asyncio.sleep(0.02)
    go_on.set()
    await pausing
    assert (await running).stdout == b"on\n"


async def left_pausing(world: Controlled) -> Sandbox:
    """As a process leaves it that died."""
    sandbox = await world.create(auto_resume=True)
    change = Change(state_id=new_state_id())
    await world.store.set_status(sandbox.id, Status.PAUSING, at=world.clock.now(), change=change)
    return sandbox


async def test_pause_of_which_nobody_here_knows(world: Controlled) -> None:
    """It is looked at again and again, and goes on when the sweep has put it in order."""
    sandbox = await left_pausing(world)
    running = asyncio.create_task(world.run(sandbox.id, "echo on"))
    await asyncio.sleep(0.02)
    await world.services.reconcile.sweep()
    await asyncio.sleep(0.02)
    world.clock.advance(LOOK_S)
    assert (await running).stdout == b"on\n"


async def test_pause_that_does_not_end(world: Controlled) -> None:
    """Nobody waits for ever."""
    sandbox = await left_pausing(world)
    running = asyncio.create_task(world.run(sandbox.id, "echo on"))
    await asyncio.sleep(0.02)
    world.clock.advance(SETTLES_S)
    with pytest.raises(DeadlineExceeded, match="still pausing"):
        await running


# ---- commands that outlive a pause ----


async def test_command_that_is_paused(world: Controlled) -> None:
    """Who reads is told where it was; attached to after the resume, it goes on from there to its end."""
    sandbox = await world.create()
    running = await world.services.exec.start(TENANT, sandbox.id, Command("wait it"))
    while not isinstance(event := await anext(running.events), ExecOutput):
        pass
    await world.services.pause(TENANT, sandbox.id)
    with pytest.raises(StateConflict, match=r"was paused while the command ran; .*attach to it") as paused:
        await anext(running.events)
    assert event.data == b"begun\n"
    assert paused.value.fields == {"status": "paused", "command_id": running.id, "offset": len(event.data)}
    await world.services.resume(TENANT, sandbox.id)
    world.node.released["it"].set()
    exec_id = ExecId(str(paused.value.fields["command_id"]))
    attached = await world.services.exec.attach(TENANT, sandbox.id, exec_id, 2)
    events = [event async for event in attached.events]
    assert [event.data for event in events if isinstance(event, ExecOutput)] == [b"gun\n"]
    assert isinstance(events[-1], ExecExited)


async def test_pause_just_before_a_command(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not started, and nobody is told to attach to it."""
    sandbox = await world.create()
    await world.services.pause(TENANT, sandbox.id)

    async def ran_a_moment_ago(*_args: object) -> Sandbox:
        return sandbox

    def refused(*_args: object) -> None:
        raise StateConflict("as a node would, at once")

    monkeypatch.setattr(world.services.exec, "_awake", ran_a_moment_ago)
    monkeypatch.setattr(world.node, "exec", refused)
    with pytest.raises(StateConflict, match="was paused before the command was reached; resume it") as paused:
        await world.services.exec.start(TENANT, sandbox.id, Command("pwd"))
    assert "command_id" not in paused.value.fields


async def test_command_cut_off_by_a_pause_that_failed(world: Controlled) -> None:
    """It goes on at once, and the error says where to attach."""
    sandbox = await world.create()
    world.node.capture_error = StorageFull("full")
    running = await world.services.exec.start(TENANT, sandbox.id, Command("wait it"))
    async with aclosing(running.events) as events:
        while not isinstance(await anext(events), ExecOutput):
            pass
        rest = asyncio.create_task(anext(events))
        await asyncio.sleep(0.01)
        with pytest.raises(StorageFull):
            await world.services.pause(TENANT, sandbox.id)
        with pytest.raises(StateConflict) as cut:
            await rest
    assert (cut.value.fields["command_id"], cut.value.fields["offset"]) == (running.id, 6)
    world.node.released["it"].set()
    attached = await world.services.exec.attach(TENANT, sandbox.id, running.id, 6)
    assert [type(event) for event in [e async for e in attached.events]][-1] is ExecExited


async def test_attaching_wakes_it(world: Controlled) -> None:
    """As all uses do; an unknown command is unknown, and an offset is not below 0."""
    sandbox = await world.paused(auto_resume=True)
    attached = await world.services.exec.attach(TENANT, sandbox.id, new_exec_id(), 0)
    with pytest.raises(ExecNotFound):
        await anext(attached.events)
    assert await world.status(sandbox.id) is Status.RUNNING
    with pytest.raises(InvalidRequest, match="offset"):
        await world.services.exec.attach(TENANT, sandbox.id, new_exec_id(), -1)


async def test_file_use_that_is_paused(world: Controlled) -> None:
    """A pause in the middle of it is what the caller hears of, not a lost guest."""
    sandbox = await world.create()
    await world.services.files.write(TENANT, sandbox.id, FileToWrite("/workspace/a", b"1"))
    await world.services.pause(TENANT, sandbox.id)

    async def chunks() -> AsyncIterator[bytes]:
        await world.services.pause(TENANT, sandbox.id)
        yield b"2"
        raise StateConflict("as a node would")

    await world.services.resume(TENANT, sandbox.id)
    with pytest.raises(StateConflict, match="was paused while its files were in use; resume it"):
        await world.services.files.write_stream(TENANT, sandbox.id, "/workspace/b", chunks(), 0o644)
