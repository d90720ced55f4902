"""
Removes saved states that nobody can need any more, and what only they needed.

Deleting is never done where a state ends its use: whoever ends it records that, and the next collection finds the
state without a record. So no crash leaves garbage for longer than until the next start.

A collection must not take what is only about to be recorded: states in use are kept whatever the store says, and no
capture begins while a collection is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator

import structlog

from terpd.control.clock import Clock
from terpd.model.errors import TerpError
from terpd.model.ids import StateId
from terpd.model.ports import Node, Store
from terpd.model.snapshot import SnapshotStatus

EVERY_S = 3600.0
SOON_S = 5.0  # after a state ended its use, so that many that end together cost one collection
RETRY_S = 60.0

_log = structlog.get_logger(__name__)


class Collector:
    def __init__(self, store: Store, node: Node, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._used: Counter[StateId] = Counter()
        self._collecting = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._never = asyncio.Event()

    @contextlib.contextmanager
    def using(self, state_id: StateId) -> Iterator[None]:
        """Keep a recorded state within the block, also if its record goes."""
        self._used[state_id] += 1
        try:
            yield
        finally:
            self._used[state_id] -= 1
            if not self._used[state_id]:
                del self._used[state_id]

    @contextlib.asynccontextmanager
    async def capturing(self, state_id: StateId) -> AsyncIterator[None]:
        """Keep a new state within the block, at whose end it is recorded or gone. Waits for a collection's end."""
        with contextlib.ExitStack() as stack:
            async with self._collecting:
                stack.enter_context(self.using(state_id))
            yield

    def in_use(self) -> Collection[StateId]:
        return self._used.keys()

    def soon(self) -> None:
        """A state has ended its use: collect in a moment."""
        self._wanted.set()

    async def run(self) -> None:
        """Collect at once, every hour and when it is wanted. Until cancelled."""
        while True:
            self._wanted.clear()
            seconds = EVERY_S
            try:
                await self.collect()
            except TerpError as error:
                _log.warning("collect_failed", error=error.code, context=error.context)
                seconds = RETRY_S
            await self._clock.wait(self._wanted, seconds)
            if self._wanted.is_set():
                await self._clock.wait(self._never, SOON_S)

    async def collect(self) -> None:
        """
        Raises:
            Unavailable: Records cannot be read, or the artifact store is away.
        """
        async with self._collecting:
            # Those in use first: what ends its use after this line is recorded before, and found in the store.
            keep = set(self._used)
            keep |= {s.state_id for s in await self._store.live_sandboxes(self._node.node_id) if s.state_id is not None}
            keep |= {
                snapshot.id
                for snapshot in await self._store.snapshots_on_node(self._node.node_id)
                if snapshot.status is not SnapshotStatus.FAILED
            }
            await self._node.collect(keep)
