"""Collections remove what nobody needs, and never what somebody is about to record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT
from support.until import until

from terpd.control.collect import EVERY_S, RETRY_S, SOON_S
from terpd.model.errors import Unavailable
from terpd.model.ids import StateId
from terpd.model.sandbox import Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path) as world:
        yield world


async def test_what_is_kept(world: Controlled) -> None:
    """States of paused sandboxes and of snapshots; nothing else."""
    paused, source = await world.paused(), await world.create()
    snapshot = await world.services.snapshots.create(TENANT, source.id, None)
    ended, deleted = await world.paused(), await world.services.snapshots.create(TENANT, source.id, None)
    await world.services.terminate(TENANT, ended.id)
    await world.services.snapshots.delete(TENANT, deleted.id)
    await world.services.collector.collect()
    assert set(world.node.states) == {paused.state_id, snapshot.id}


async def test_capture_under_way_is_kept(world: Controlled) -> None:
    """Before and after its node has finished with it."""
    sandbox = await world.create()
    world.node.capture_gate.clear()
    pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
    await world.node.capturing.wait()
    await world.services.collector.collect()
    world.node.capture_gate.set()
    saved = await pausing
    assert world.node.collections == [{saved.id}]


async def test_no_capture_begins_during_a_collection(world: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that began and ended between the list of what to keep and the deleting would be lost."""
    sandbox = await world.create()
    collect, listed, go_on = world.node.collect, asyncio.Event(), asyncio.Event()

    async def slow(keep: Collection[StateId]) -> None:
        listed.set()
        await go_on.wait()
        await collect(keep)

    monkeypatch.setattr(world.node, "collect", slow)
    collecting = asyncio.create_task(world.services.collector.collect())
    await listed.wait()
    pausing = asyncio.create_task(world.services.pause(TENANT, sandbox.id))
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert not world.node.capturing.is_set()
    go_on.set()
    await collecting
    saved = await pausing
    assert list(world.node.states) == [saved.id]


async def test_when_it_collects(world: Controlled) -> None:
    """At start; soon after a state's end, once for several; every hour; and again after a failure."""
    node = world.node
    async with world.services.running():
        await until(lambda: len(node.collections) == 1)
        for sandbox in [await world.paused(), await world.paused()]:
            await world.services.terminate(TENANT, sandbox.id)
        assert len(node.states) == 2
        await advance(world, SOON_S)
        await until(lambda: len(node.collections) == 2)
        assert not node.states
        node.collect_error = Unavailable("the artifact store is away")
        await advance(world, EVERY_S)
        await asyncio.sleep(0.05)
        node.collect_error = None
        await advance(world, RETRY_S)
        await until(lambda: len(node.collections) == 3)


async def advance(world: Controlled, seconds: float) -> None:
    """Let those who were told something begin to sleep first."""
    await asyncio.sleep(0.05)
    world.clock.advance(seconds)


async def test_sandbox_that_was_never_saved_costs_no_collection(world: Controlled) -> None:
    """Terminating it leaves nothing to collect; terminating one that was resumed may."""
    async with world.services.running():
        await until(lambda: len(world.node.collections) == 1)
        sandbox = await world.create()
        await world.services.terminate(TENANT, sandbox.id)
        await advance(world, SOON_S)
        await asyncio.sleep(0.05)
        assert len(world.node.collections) == 1
        paused = await world.paused()
        world.clock.advance(1)
        resumed = await world.services.resume(TENANT, paused.id)
        await advance(world, SOON_S)
        await until(lambda: len(world.node.collections) == 2)
        await world.services.terminate(TENANT, resumed.id)
        await advance(world, SOON_S)
        await until(lambda: len(world.node.collections) == 3)
    assert resumed.status is Status.RUNNING
