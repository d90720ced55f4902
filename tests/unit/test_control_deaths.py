"""The process dies at each step of a use case; the next one puts in order what it finds."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT
from support.until import until

from terpd.control.files import FileToWrite
from terpd.control.fork import ForkRequest
from terpd.model.errors import GuestFault, Unavailable
from terpd.model.ids import SandboxId
from terpd.model.ports import MachinePhase
from terpd.model.sandbox import EndReason, Sandbox, Status
from terpd.model.snapshot import SnapshotStatus


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, dataclasses.replace(POLICY, max_paused_s=3600)) as world:
        yield world


class Held:
    """Calls of a method that never return: before its work, or after it."""

    def __init__(self, owner: object, name: str, monkeypatch: pytest.MonkeyPatch, *, work: bool) -> None:
        self.reached = asyncio.Event()
        self._monkeypatch = monkeypatch
        method = getattr(owner, name)

        async def held(*args: object, **kwargs: object) -> None:
            if work:
                await method(*args, **kwargs)
            self.reached.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(owner, name, held)

    def release(self) -> None:
        self._monkeypatch.undo()


async def with_file(world: Controlled) -> Sandbox:
    sandbox = await world.create()
    await world.services.files.write(TENANT, sandbox.id, FileToWrite("/workspace/a", b"1"))
    return sandbox


async def assert_whole(world: Controlled, sandbox_id: SandboxId) -> None:
    """It runs, has what it had, and nothing else runs or is kept."""
    assert await world.status(sandbox_id) is Status.RUNNING
    assert await world.services.files.read(TENANT, sandbox_id, "/workspace/a") == b"1"
    assert list(world.node.machines) == [sandbox_id]
    await world.services.collector.collect()
    assert not world.node.states


async def test_pause_dies_while_it_saves(world: Controlled) -> None:
    """The machine stands still, and goes on."""
    sandbox = await with_file(world)
    world.node.capture_gate.clear()
    await world.die_during(world.services.pause(TENANT, sandbox.id), world.node.capturing)
    assert world.node.machines[sandbox.id].phase is MachinePhase.HELD
    await world.services.reconcile.at_start()
    await world.services.reconcile.at_start()
    await assert_whole(world, sandbox.id)
    world.node.capture_gate.set()
    await world.services.pause(TENANT, sandbox.id)


async def test_pause_dies_after_it_saved(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine still is what counts."""
    sandbox = await with_file(world)
    held = Held(world.node, "pause_machine", monkeypatch, work=True)
    await world.die_during(world.services.pause(TENANT, sandbox.id), held.reached)
    held.release()
    assert len(world.node.states) == 1
    await world.services.reconcile.at_start()
    await assert_whole(world, sandbox.id)


@pytest.mark.parametrize("whole", [True, False])
async def test_pause_and_machine_die(world: Controlled, monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> None:
    """The saved state counts if it is whole; else there is nothing left of the sandbox."""
    sandbox = await with_file(world)
    held = Held(world.node, "pause_machine", monkeypatch, work=True)
    await world.die_during(world.services.pause(TENANT, sandbox.id), held.reached)
    held.release()
    world.node.crash(sandbox.id)
    if not whole:
        world.node.states.clear()
    await world.services.reconcile.at_start()
    found = await world.get(sandbox.id)
    if not whole:
        assert (found.status, found.end_reason) == (Status.FAILED, EndReason.MACHINE_LOST)
        return
    assert found.status is Status.PAUSED
    assert found.paused_expires_at is not None
    await world.services.resume(TENANT, sandbox.id)
    await assert_whole(world, sandbox.id)


async def test_nobody_knows_whether_it_was_saved(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is given up until the artifact store answers."""
    sandbox = await with_file(world)
    held = Held(world.node, "pause_machine", monkeypatch, work=True)
    await world.die_during(world.services.pause(TENANT, sandbox.id), held.reached)
    held.release()
    world.node.crash(sandbox.id)
    world.node.state_error = Unavailable("the artifact store is away")
    await world.services.reconcile.at_start()
    assert await world.status(sandbox.id) is Status.PAUSING
    world.node.state_error = None
    await world.services.reconcile.sweep()
    assert await world.status(sandbox.id) is Status.PAUSED


async def test_machine_that_does_not_go_on(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved of it is then what counts."""
    sandbox = await with_file(world)
    held = Held(world.node, "pause_machine", monkeypatch, work=True)
    await world.die_during(world.services.pause(TENANT, sandbox.id), held.reached)
    held.release()
    world.node.continue_error = GuestFault("it does not wake")
    await world.services.reconcile.at_start()
    await world.services.reconcile.sweep()
    assert await world.status(sandbox.id) is Status.PAUSED
    await world.services.resume(TENANT, sandbox.id)
    await assert_whole(world, sandbox.id)


async def test_pause_dies_before_the_machine_is_stopped(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is paused, and the machine goes."""
    sandbox = await with_file(world)
    held = Held(world.node, "stop_machine", monkeypatch, work=False)
    await world.die_during(world.services.pause(TENANT, sandbox.id), held.reached)
    held.release()
    await world.services.reconcile.at_start()
    assert await world.status(sandbox.id) is Status.PAUSED
    assert not world.node.machines
    await world.services.collector.collect()
    await world.services.resume(TENANT, sandbox.id)
    await assert_whole(world, sandbox.id)


@pytest.mark.parametrize("up", [False, True])
async def test_resume_dies(world: Controlled, monkeypatch: pytest.MonkeyPatch, *, up: bool) -> None:
    """Before its machine is up it is paused as before; afterwards it goes on with it, and with a whole lease."""
    sandbox = await with_file(world)
    await world.services.pause(TENANT, sandbox.id)
    held = Held(world.node, "start_machine", monkeypatch, work=up)
    await world.die_during(world.services.resume(TENANT, sandbox.id), held.reached)
    held.release()
    world.clock.advance(5000)
    await world.services.collector.collect()  # must not take what is still needed
    await world.services.reconcile.at_start()
    if not up:
        assert await world.status(sandbox.id) is Status.PAUSED
        await world.services.resume(TENANT, sandbox.id)
    assert (await world.get(sandbox.id)).expires_at > world.clock.now()
    await assert_whole(world, sandbox.id)


async def test_resume_dies_and_left_a_machine_that_stands_still(
    world: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not confirm that it is awake: away with it."""
    sandbox = await with_file(world)
    await world.services.pause(TENANT, sandbox.id)
    held = Held(world.node, "start_machine", monkeypatch, work=True)
    await world.die_during(world.services.resume(TENANT, sandbox.id), held.reached)
    held.release()
    world.node.machines[sandbox.id].phase = MachinePhase.HELD
    await world.services.reconcile.at_start()
    assert await world.status(sandbox.id) is Status.PAUSED
    assert not world.node.machines


async def test_snapshot_dies(world: Controlled) -> None:
    """The source goes on; the snapshot says that it failed, and its key is gone."""
    source = await with_file(world)
    world.node.capture_gate.clear()
    taking = world.services.snapshots.create(TENANT, source.id, "s")
    await world.die_during(taking, world.node.capturing)
    await world.services.reconcile.at_start()
    await assert_whole(world, source.id)
    (snapshot,) = await world.services.snapshots.list(TENANT)
    assert (snapshot.status, snapshot.sealed_key) == (SnapshotStatus.FAILED, None)
    assert snapshot.error is not None
    assert [receipt.subject for receipt in await world.services.receipts.list(TENANT)] == [snapshot.id]
    await world.services.snapshots.delete(TENANT, snapshot.id)
    assert await world.services.snapshots.list(TENANT) == []


@pytest.mark.parametrize("step", ["snapshot_machine", "start_machine", "delete_snapshot"])
@pytest.mark.parametrize("work", [False, True])
async def test_fork_dies(world: Controlled, monkeypatch: pytest.MonkeyPatch, step: str, *, work: bool) -> None:
    """Before the children are recorded as running there are none; afterwards all are. Nothing else is left."""
    source = await with_file(world)
    owner = world.store if step == "delete_snapshot" else world.node
    held = Held(owner, step, monkeypatch, work=work)
    await world.die_during(world.services.fork(TENANT, source.id, ForkRequest(2)), held.reached)
    held.release()
    await world.services.reconcile.at_start()
    await world.services.reconcile.at_start()
    children = [sandbox for sandbox in await world.all() if sandbox.id != source.id]
    expected = Status.RUNNING if step == "delete_snapshot" else Status.FAILED
    assert [child.status for child in children] == [expected] * 2
    running = {source.id, *(child.id for child in children if child.status is Status.RUNNING)}
    assert set(world.node.machines) == running
    assert not await world.store.snapshots_on_node("node-a")
    await world.services.collector.collect()
    assert not world.node.states


async def test_paused_sandboxes_outlive_everything(world: Controlled) -> None:
    """A restart touches neither them nor their states; their time runs on."""
    sandbox = await with_file(world)
    await world.services.pause(TENANT, sandbox.id)
    async with world.services.running():
        await until(lambda: len(world.node.collections) == 1)
    assert await world.status(sandbox.id) is Status.PAUSED
    world.clock.advance(3600)
    async with world.services.running():
        while (ended := await world.get(sandbox.id)).status is not Status.TERMINATED:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert (ended.end_reason, ended.sealed_key) == (EndReason.PAUSED_TOO_LONG, None)
