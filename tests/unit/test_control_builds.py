"""What is built while the server runs is told of, once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from support.clock import FakeClock
from support.couriers import SilentCourier
from support.sandboxes import NOON, TENANT
from support.simulated_node import SimulatedNode

from terpd.control.builds import LOOK_EVERY_S, Builds
from terpd.control.webhooks import Webhooks
from terpd.model.template import TemplateInfo
from terpd.sealing.keyring import KeyRing
from terpd.store import SqliteStore, open_sqlite

OLD = TemplateInfo(name="old", description="", digest="d1", size_bytes=1, warm_sizes=())


class Node(SimulatedNode):
    """Its templates are what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.built = [OLD]
        self.looks = 0

    async def templates(self) -> list[TemplateInfo]:
        self.looks += 1
        return list(self.built)


async def told(store: SqliteStore) -> list[dict[str, str]]:
    due = await store.due_deliveries(NOON.replace(year=2030), of_one=100, limit=100)
    return [json.loads(delivery.body)["template"] for delivery, _ in due]


async def test_new_and_rebuilt_templates(tmp_path: Path) -> None:
    """Not those that were there before; a template that is removed is nothing to tell."""
    store, node, clock = await open_sqlite(tmp_path / "terp.db"), Node(), FakeClock()
    await Webhooks(store, SilentCourier(), KeyRing([bytes(32)]), clock).create(TENANT, "https://example.com/", None)
    running = asyncio.create_task(Builds(store, node, clock).run())

    async def look() -> None:
        seen = node.looks
        while node.looks == seen:
            clock.advance(LOOK_EVERY_S)
            await asyncio.sleep(0.01)

    await look()
    assert await told(store) == []
    node.built = [replace(OLD, digest="d2"), replace(OLD, name="new")]
    await look()
    await look()
    node.built = [replace(OLD, name="new")]
    await look()
    assert await told(store) == [{"name": "new", "digest": "d1"}, {"name": "old", "digest": "d2"}]
    running.cancel()
    await store.close()
