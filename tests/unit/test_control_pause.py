"""Pauses: what they record and do, who wins against whom, and that a failure leaves the sandbox running."""

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
from support.until import until

from terpd.model.errors import (
    DeadlineExceeded,
    GuestFault,
    SandboxNotFound,
    SnapshotCap,
    StateConflict,
    StorageFull,
    TerpError,
    Unavailable,
)
from terpd.model.ids import TenantId
from terpd.model.ports import MachinePhase
from terpd.model.sandbox import EndReason, Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    policy = dataclasses.replace(POLICY, max_snapshots=2, max_paused_s=3600)
    async with controlled(tmp_path, policy) as world:
        yield world


async def test_paused_sandbox_has_a_state_and_no_machine(world: Controlled) -> None:
    """What the capture came to is returned and recorded; it no longer counts among those in use."""
    sandbox = await world.create()
    saved = await world.services.pause(TENANT, sandbox.id)
    paused = await world.get(sandbox.id)
    assert (paused.status, paused.state_id, paused.stored_bytes) == (Status.PAUSED, saved.id, saved.stored_bytes)
    assert paused.paused_expires_at == world.clock.now() + dt.timedelta(seconds=3600)
    assert not world.node.machines
    assert list(world.node.states) == [saved.id]
    limits = await world.services.lookup.limits(TENANT)
    assert (limits.live, limits.paused) == (0, 1)


async def test_two_pauses_at_once(world: Controlled) -> None:
    """One wins; the other hears that it is at work. A pause of a paused one is a conflict too."""
    sandbox = await world.create()
    first, second = await asyncio.gather(
        world.services.pause(TENANT, sandbox.id), world.services.pause(TENANT, sandbox.id), return_exceptions=True
    )
    assert sorted(isinstance(outcome, StateConflict) for outcome in (first, second)) == [False, True]
    with pytest.raises(StateConflict, match="paused already"):
        await world.services.pause(TENANT, sandbox.id)


async def test_only_the_owner_pauses(world: Controlled) -> None:
    """To anybody else there is no such sandbox."""
    sandbox = await world.create()
    with pytest.raises(SandboxNotFound):
        await world.services.pause(TenantId("other"), sandbox.id)
    assert await world.status(sandbox.id) is Status.RUNNING


async def test_cap_of_paused_sandboxes(world: Controlled) -> None:
    """One above it is refused, and runs on."""
    await world.paused()
    await world.paused()
    third = await world.create()
    with pytest.raises(SnapshotCap):
        await world.services.pause(TENANT, third.id)
    assert await world.status(third.id) is Status.RUNNING
    assert (await world.run(third.id, "echo on")).stdout == b"on\n"


@pytest.mark.parametrize(
    "failure", [StorageFull("full"), Unavailable("away"), GuestFault("odd"), DeadlineExceeded("slow")]
)
async def test_failed_pause_leaves_it_running(world: Controlled, failure: TerpError) -> None:
    """With the lease that it had; and the next pause succeeds."""
    sandbox = await world.create()
    world.node.capture_error = failure
    with pytest.raises(type(failure)):
        await world.services.pause(TENANT, sandbox.id)
    running = await world.get(sandbox.id)
    assert (running.status, running.state_id, running.expires_at) == (Status.RUNNING, None, sandbox.expires_at)
    assert running.window_began_at == sandbox.window_began_at
    assert (await world.run(sandbox.id, "echo on")).stdout == b"on\n"
    world.node.capture_error = None
    await world.services.pause(TENANT, sandbox.id)


async def test_terminated_while_it_is_paused(world: Controlled) -> None:
    """The terminate does not wait, and wins: no machine, no state that could be read, and the pause says why."""
    sandbox = await world.create()
    world.node.capture_gate.clear()
    pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
    await world.node.capturing.wait()
    await world.services.terminate(TENANT, sandbox.id)
    with pytest.raises(StateConflict, match=r"ended \(user\) while it was being paused"):
        await pausing
    ended = await world.get(sandbox.id)
    assert (ended.status, ended.sealed_key, ended.state_id) == (Status.TERMINATED, None, None)
    assert not world.node.machines
    assert [receipt.subject for receipt in await world.services.receipts.list(TENANT)] == [sandbox.id]


async def test_terminated_after_the_capture(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved in vain is without a record, and collected."""
    sandbox = await world.create()
    pause_machine = world.node.pause_machine

    async def then_terminated(*args: object, **kwargs: object) -> object:
        saved = await pause_machine(*args, **kwargs)  # type: ignore[arg-type]
        await world.services.terminate(TENANT, sandbox.id)
        return saved

    monkeypatch.setattr(world.node, "pause_machine", then_terminated)
    with pytest.raises(StateConflict, match="ended"):
        await world.services.pause(TENANT, sandbox.id)
    assert world.node.states
    await world.services.collector.collect()
    assert not world.node.states
    assert not world.node.machines


async def test_caller_that_leaves_does_not_stop_it(world: Controlled) -> None:
    """The pause is finished."""
    sandbox = await world.create()
    world.node.capture_gate.clear()
    pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
    await world.node.capturing.wait()
    pausing.cancel()
    await asyncio.gather(pausing, return_exceptions=True)
    world.node.capture_gate.set()
    await until(lambda: not world.node.machines)
    assert await world.status(sandbox.id) is Status.PAUSED


async def test_machine_that_does_not_stop_after_the_pause(world: Controlled) -> None:
    """It holds still; the pause has succeeded, the sweep stops it, and a resume before that does."""
    swept, resumed = await world.create(), await world.create()
    world.node.stop_error = Unavailable("it does not die")
    for sandbox in (swept, resumed):
        await world.services.pause(TENANT, sandbox.id)
        assert await world.status(sandbox.id) is Status.PAUSED
        assert world.node.machines[sandbox.id].phase is MachinePhase.HELD
    world.node.stop_error = None
    assert (await world.services.resume(TENANT, resumed.id)).status is Status.RUNNING
    await world.services.reconcile.sweep()
    assert list(world.node.machines) == [resumed.id]
    assert await world.status(swept.id) is Status.PAUSED


async def test_renewal_and_pause_at_the_deadline(world: Controlled) -> None:
    """A lease renewed in the last moment keeps the sandbox running; one that comes later is refused."""
    sandbox = await world.create(timeout_s=10)
    world.clock.advance(10)
    due = await world.get(sandbox.id)
    await world.services.renew(TENANT, sandbox.id, 600)
    assert await world.services.pause.at_deadline(due, world.clock.now()) is None
    assert await world.status(sandbox.id) is Status.RUNNING
    world.clock.advance(600)
    world.node.capture_gate.clear()
    pausing = asyncio.create_task(world.services.pause.at_deadline(due, world.clock.now()))
    await world.node.capturing.wait()
    with pytest.raises(StateConflict, match="pausing"):
        await world.services.renew(TENANT, sandbox.id, 600)
    world.node.capture_gate.set()
    assert await pausing is not None


async def test_machine_lost_while_it_is_paused(world: Controlled) -> None:
    """The pause fails, and the sandbox is FAILED as soon as that is known."""
    async with world.services.running():
        sandbox = await world.create()
        world.node.capture_gate.clear()
        pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
        await world.node.capturing.wait()
        world.node.crash(sandbox.id)
        with pytest.raises(StateConflict):
            await pausing
        while (lost := await world.get(sandbox.id)).status is Status.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert (lost.status, lost.end_reason) == (Status.FAILED, EndReason.MACHINE_LOST)


async def test_machine_lost_after_it_was_saved(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is whole, so the sandbox is paused all the same."""
    pause_machine = world.node.pause_machine

    async def then_lost(*args: object, **kwargs: object) -> object:
        saved = await pause_machine(*args, **kwargs)  # type: ignore[arg-type]
        world.node.crash(sandbox.id)
        for _ in range(20):  # let who watches for exits hear of it
            await asyncio.sleep(0)
        return saved

    monkeypatch.setattr(world.node, "pause_machine", then_lost)
    async with world.services.running():
        sandbox = await world.create()
        await world.services.pause(TENANT, sandbox.id)
        assert await world.status(sandbox.id) is Status.PAUSED
        await world.services.resume(TENANT, sandbox.id)


async def test_store_that_is_away_when_it_is_saved(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither machine nor state is thrown away: the sweep lets the machine run on."""
    sandbox = await world.create()
    set_status = world.store.set_status

    async def away(sandbox_id: object, status: Status, **options: object) -> object:
        if status is Status.PAUSED:
            raise Unavailable("the store is away")
        return await set_status(sandbox_id, status, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(world.store, "set_status", away)
    with pytest.raises(Unavailable):
        await world.services.pause(TENANT, sandbox.id)
    monkeypatch.undo()
    assert await world.status(sandbox.id) is Status.PAUSING
    assert world.node.machines[sandbox.id].phase is MachinePhase.HELD
    await world.services.reconcile.sweep()
    assert await world.status(sandbox.id) is Status.RUNNING
    assert (await world.run(sandbox.id, "echo on")).stdout == b"on\n"
