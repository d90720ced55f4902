"""Resumes: what goes on, what fails without loss, and who wins against whom."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT

from terpd.control.files import FileToWrite
from terpd.model.errors import (
    CapacityUnavailable,
    GuestFault,
    PlanLimit,
    StateConflict,
    StateDamaged,
    StateMismatch,
    TerpError,
)
from terpd.model.sandbox import Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    policy = dataclasses.replace(POLICY, max_concurrent=2, max_running_lifetime_s=900)
    async with controlled(tmp_path, policy) as world:
        yield world


async def test_it_goes_on_as_it_was(world: Controlled) -> None:
    """Files and environment are there, the lease is as long as last set, and the state is garbage from then on."""
    sandbox = await world.create(timeout_s=60, env={"TOKEN": "t"})
    await world.services.files.write(TENANT, sandbox.id, FileToWrite("/workspace/a", b"1"))
    await world.services.renew(TENANT, sandbox.id, 120)
    await world.services.pause(TENANT, sandbox.id)
    world.clock.advance(5000)
    resumed = await world.services.resume(TENANT, sandbox.id)
    assert resumed.status is Status.RUNNING
    assert resumed.expires_at == world.clock.now() + dt.timedelta(seconds=120)
    assert (resumed.window_began_at, resumed.state_id, resumed.paused_expires_at) == (world.clock.now(), None, None)
    assert await world.services.files.read(TENANT, sandbox.id, "/workspace/a") == b"1"
    assert (await world.run(sandbox.id, "env TOKEN")).stdout == b"t"
    assert not world.node.machines[sandbox.id].spec.fork
    await world.services.collector.collect()
    assert not world.node.states


async def test_running_one_is_a_conflict(world: Controlled) -> None:
    """And an ended one, which says so."""
    sandbox = await world.create()
    with pytest.raises(StateConflict, match="running already"):
        await world.services.resume(TENANT, sandbox.id)
    await world.services.terminate(TENANT, sandbox.id)
    with pytest.raises(StateConflict, match="create a new one"):
        await world.services.resume(TENANT, sandbox.id)


async def test_two_resumes_share_one_attempt(world: Controlled) -> None:
    """Both get the sandbox, and one machine was started."""
    sandbox = await world.paused()
    first, second = await asyncio.gather(*(world.services.resume(TENANT, sandbox.id) for _ in range(2)))
    assert first == second
    assert list(world.node.machines) == [sandbox.id]


async def test_cap_of_sandboxes_in_use(world: Controlled) -> None:
    """A paused one counts again when it is resumed; it stays paused if there is no room in the plan."""
    sandbox = await world.paused()
    await world.create()
    await world.create()
    with pytest.raises(PlanLimit):
        await world.services.resume(TENANT, sandbox.id)
    assert await world.status(sandbox.id) is Status.PAUSED


@pytest.mark.parametrize(
    "failure", [CapacityUnavailable("full"), GuestFault("odd"), StateMismatch("another processor"), OSError("a bug")]
)
async def test_failed_resume_leaves_it_paused(world: Controlled, failure: Exception) -> None:
    """With its state, and its time as a paused one; the next resume succeeds."""
    paused = await world.paused()
    world.node.start_error = failure
    with pytest.raises(type(failure)):
        await world.services.resume(TENANT, paused.id)
    assert await world.get(paused.id) == paused
    await world.services.collector.collect()
    world.node.start_error = None
    await world.services.resume(TENANT, paused.id)


async def test_state_that_is_gone(world: Controlled) -> None:
    """Says so, and stays paused."""
    paused = await world.paused()
    world.node.states.clear()
    with pytest.raises(StateDamaged):
        await world.services.resume(TENANT, paused.id)
    assert await world.status(paused.id) is Status.PAUSED


async def test_terminated_while_it_is_resumed(world: Controlled) -> None:
    """The terminate wins: no machine, and the resume says why."""
    sandbox = await world.paused()
    world.node.start_gate.clear()
    world.node.starting.clear()
    resuming = asyncio.create_task(world.services.resume(TENANT, sandbox.id))
    await world.node.starting.wait()
    await world.services.terminate(TENANT, sandbox.id)
    world.node.start_gate.set()
    with pytest.raises(StateConflict, match=r"ended \(user\) while it was being resumed"):
        await resuming
    assert not world.node.machines
    assert await world.status(sandbox.id) is Status.TERMINATED


async def test_terminated_as_its_machine_is_up(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that came too late is stopped."""
    sandbox = await world.paused()
    start_machine = world.node.start_machine

    async def ended_before(*args: object) -> None:
        await world.services.terminate(TENANT, sandbox.id)
        await start_machine(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(world.node, "start_machine", ended_before)
    with pytest.raises(StateConflict, match="ended"):
        await world.services.resume(TENANT, sandbox.id)
    assert not world.node.machines


async def test_store_that_is_away_when_it_runs(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is thrown away: the sweep goes on with the machine that is awake."""
    sandbox = await world.paused()
    set_status = world.store.set_status

    async def away(sandbox_id: object, status: Status, **options: object) -> object:
        if status is Status.RUNNING:
            raise StorageFull
        return await set_status(sandbox_id, status, **options)  # type: ignore[arg-type]

    class StorageFull(TerpError):
        def __init__(self) -> None:
            super().__init__("no room for the record")

    monkeypatch.setattr(world.store, "set_status", away)
    with pytest.raises(StorageFull):
        await world.services.resume(TENANT, sandbox.id)
    assert await world.status(sandbox.id) is Status.RESUMING
    monkeypatch.undo()
    await world.services.reconcile.sweep()
    assert await world.status(sandbox.id) is Status.RUNNING
    assert (await world.run(sandbox.id, "echo on")).stdout == b"on\n"


async def test_longest_time_in_one_go(world: Controlled) -> None:
    """It counts from the start or the resume; a pause and a resume begin anew, capped to it."""
    sandbox = await world.create(timeout_s=900)
    with pytest.raises(PlanLimit) as refused:
        await world.create(timeout_s=901)
    assert refused.value.fields == {"reason": "lifetime_cap_reached", "limit": 900}
    world.clock.advance(600)
    await world.services.renew(TENANT, sandbox.id, 300)
    with pytest.raises(PlanLimit):
        await world.services.renew(TENANT, sandbox.id, 301)
    await world.services.pause(TENANT, sandbox.id)
    await world.services.resume(TENANT, sandbox.id)
    await world.services.renew(TENANT, sandbox.id, 900)
