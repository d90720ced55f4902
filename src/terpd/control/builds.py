"""
Tells webhooks of templates that were built. Builders are programs of their own (`terpd template build`), and templates
are for all tenants: the server sees a new one when it looks. What is built while no server runs is not told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from terpd.control.clock import Clock
from terpd.model.errors import TerpError
from terpd.model.ports import Node, Store
from terpd.model.webhook import Event, EventType

LOOK_EVERY_S = 30.0

_log = structlog.get_logger(__name__)


class Builds:
    def __init__(self, store: Store, node: Node, clock: Clock) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._never = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        known: Mapping[str, str] | None = None
        while True:
            try:
                found = {template.name: template.digest for template in await self._node.templates()}
                new = () if known is None else sorted(found.items() - known.items())
                for name, digest in new:
                    await self._tell(name, digest)
                known = found
            except TerpError as error:  # nothing is taken for known that was not told of
                _log.warning("builds_not_told", error=error.code, context=error.context)
            await self._clock.wait(self._never, LOOK_EVERY_S)

    async def _tell(self, name: str, digest: str) -> None:
        data = {"template": {"name": name, "digest": digest}}
        await self._store.add_event(Event(EventType.TEMPLATE_BUILD_FINISHED, None, self._clock.now(), data))
