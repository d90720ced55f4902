"""All use cases over a real store, a simulated node and a clock that jumps; and the death of the process between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from support.api import KEYS, POLICY
from support.clock import FakeClock
from support.couriers import SilentCourier
from support.sandboxes import TENANT
from support.simulated_node import SimulatedNode
from terpd.control.create import CreateRequest
from terpd.control.exec import Command, ExecResult
from terpd.control.policy import Policy
from terpd.control.services import Services
from terpd.model.ids import SandboxId
from terpd.model.ports import SandboxFilter
from terpd.model.sandbox import Sandbox, Status
from terpd.store import SqliteStore, open_sqlite


class Controlled:
    """Background loops run only inside of `services.running()`; else a test calls what they would call."""

    def __init__(self, store: SqliteStore, policy: Policy) -> None:
        self.store = store
        self.policy = policy
        self.node = SimulatedNode()
        self.clock = FakeClock()
        self.services = self._new()

    def _new(self) -> Services:
        return Services(self.store, self.node, self.policy, KEYS, SilentCourier(), self.clock)

    async def create(self, **options: Any) -> Sandbox:
        """Options as of CreateRequest."""
        if "snapshot" not in options:
            options.setdefault("template", "python-3.12")
        return await self.services.create(await self.services.create.plan(TENANT, CreateRequest(**options)))

    async def paused(self, **options: Any) -> Sandbox:
        sandbox = await self.create(**options)
        await self.services.pause(TENANT, sandbox.id)
        return await self.get(sandbox.id)

    async def get(self, sandbox_id: SandboxId) -> Sandbox:
        return await self.store.get_sandbox(TENANT, sandbox_id)

    async def status(self, sandbox_id: SandboxId) -> Status:
        return (await self.get(sandbox_id)).status

    async def all(self) -> list[Sandbox]:
        return list(await self.store.list_sandboxes(TENANT, SandboxFilter()))

    async def run(self, sandbox_id: SandboxId, command: str) -> ExecResult:
        return await self.services.exec.run(TENANT, sandbox_id, Command(command))

    async def die_during(self, work: Coroutine[Any, Any, Any], reached: asyncio.Event) -> None:
        """Begin *work*, and when *reached* is set let the process end: nothing of it goes on, and nothing is undone."""
        before = asyncio.all_tasks()
        begun = asyncio.create_task(work)
        await reached.wait()
        tasks = asyncio.all_tasks() - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(begun, *tasks, return_exceptions=True)
        self.services = self._new()


@contextlib.asynccontextmanager
async def controlled(directory: Path, policy: Policy = POLICY) -> AsyncIterator[Controlled]:
    store = await open_sqlite(directory / "terp.db")
    try:
        yield Controlled(store, policy)
    finally:
        await store.close()
