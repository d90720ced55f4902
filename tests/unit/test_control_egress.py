"""The record of connections: taken from the node, whatever the store does meanwhile, and kept for so long."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.egress import make_egress
from support.sandboxes import NOON, TENANT
from support.until import until

from terpd.control.egress import PRUNE_AT_ONCE, RETRY_S
from terpd.model.errors import Internal, InvalidRequest, SandboxNotFound, TerpError, Unavailable
from terpd.model.ids import TenantId
from terpd.model.network import EgressFilter, EgressRecord
from terpd.model.sandbox import Network, Sandbox


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, dataclasses.replace(POLICY, egress_retention_days=2)) as world:
        yield world


@pytest.fixture
async def sandbox(world: Controlled) -> Sandbox:
    return await world.create(network=Network.OPEN)


@contextlib.asynccontextmanager
async def recording(world: Controlled) -> AsyncIterator[None]:
    task = asyncio.create_task(world.services.egress.record())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ids(world: Controlled, sandbox: Sandbox, **where: object) -> list[str]:
    found = await world.services.egress.list(TENANT, sandbox.id, EgressFilter(**where))  # type: ignore[arg-type]
    return [record.id for record in found]


async def recorded(world: Controlled, sandbox: Sandbox, expected: list[str]) -> None:
    """Return once exactly these are on record."""
    while await ids(world, sandbox) != expected:  # noqa: ASYNC110 - the store has no event
        await asyncio.sleep(0.001)


class Failing:
    """A store's `add_egress` that fails with these errors first. `calls` are what it was asked to add."""

    def __init__(self, world: Controlled, *errors: TerpError) -> None:
        self.calls: list[Sequence[EgressRecord]] = []
        self._errors = list(errors)
        self._add = world.store.add_egress
        world.store.add_egress = self  # type: ignore[method-assign]

    async def __call__(self, records: Sequence[EgressRecord]) -> None:
        self.calls.append(records)
        if self._errors:
            raise self._errors.pop(0)
        await self._add(records)


async def test_what_the_node_tells_is_recorded(world: Controlled, sandbox: Sandbox) -> None:
    """In its batches, and counted."""
    async with recording(world):
        world.node.report(make_egress(sandbox, id="1"), make_egress(sandbox, id="2"))
        world.node.report(make_egress(sandbox, id="3"))
        await recorded(world, sandbox, ["3", "2", "1"])
    assert (await world.services.egress.traffic(TENANT, sandbox.id)).connections == 3


async def test_store_is_away_for_a_while(world: Controlled, sandbox: Sandbox) -> None:
    """The batch is tried again until it is recorded; nothing more is taken meanwhile."""
    failing = Failing(world, Unavailable("locked"), Unavailable("locked"))
    async with recording(world):
        world.node.report(make_egress(sandbox, id="1"))
        world.node.report(make_egress(sandbox, id="2"))
        await until(lambda: len(failing.calls) == 1)
        world.clock.advance(RETRY_S)
        await until(lambda: len(failing.calls) == 2)
        world.clock.advance(RETRY_S)
        await recorded(world, sandbox, ["2", "1"])
    assert [[record.id for record in records] for records in failing.calls] == [["1"], ["1"], ["1"], ["2"]]


async def test_batch_that_the_store_refuses(world: Controlled, sandbox: Sandbox) -> None:
    """Those behind it are recorded."""
    Failing(world, Internal("refused"))
    async with recording(world):
        world.node.report(make_egress(sandbox, id="1"))
        world.node.report(make_egress(sandbox, id="2"))
        await recorded(world, sandbox, ["2"])


async def test_what_is_left_when_the_server_stops(world: Controlled, sandbox: Sandbox) -> None:
    """A node that is being closed ends connections; they are recorded after it, and a failure keeps nobody."""
    Failing(world, Unavailable("locked"))
    world.node.report(make_egress(sandbox, id="1"))
    world.node.report(make_egress(sandbox, id="2"))
    world.node.report()
    await world.services.egress.drain()
    assert await ids(world, sandbox) == ["2"]


async def test_old_records_go(world: Controlled, sandbox: Sandbox) -> None:
    """In as many pieces as it takes; what is not too old stays."""
    old = [make_egress(sandbox, id=f"{n:05}", at=NOON - dt.timedelta(days=3)) for n in range(PRUNE_AT_ONCE + 1)]
    await world.store.add_egress([*old, make_egress(sandbox, id="9", at=NOON - dt.timedelta(days=1))])
    assert await world.services.egress.prune() == PRUNE_AT_ONCE + 1
    assert await world.services.egress.prune() == 0
    assert await ids(world, sandbox) == ["9"]


async def test_reading(world: Controlled, sandbox: Sandbox) -> None:
    """A name is found however it is written; pages are bounded; others' are not found."""
    await world.store.add_egress([make_egress(sandbox, id="1", name="api.example.com"), make_egress(sandbox, name="a")])
    assert await ids(world, sandbox, name="API.Example.com.") == ["1"]
    for limit in (0, 1001):
        with pytest.raises(InvalidRequest, match="limit"):
            await ids(world, sandbox, limit=limit)
    with pytest.raises(SandboxNotFound):
        await world.services.egress.list(TenantId("other"), sandbox.id, EgressFilter())
    with pytest.raises(SandboxNotFound):
        await world.services.egress.traffic(TenantId("other"), sandbox.id)
    await world.services.terminate(TENANT, sandbox.id)
    assert len(await ids(world, sandbox)) == 2
