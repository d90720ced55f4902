"""Namespaces that wait for a machine, so that no create waits for one. 0.3 MiB of kernel memory each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import structlog

from terpd.egress.base import Namespaces, Sockets
from terpd.model.errors import Unavailable

log = structlog.get_logger()

_RETRY_S = 5.0  # after the host refused one


class NamespacePool:
    """
    Args:
        target: How many to keep ready; 0 makes each when it is asked for. They hold no tenant's data.
    """

    def __init__(self, namespaces: Namespaces, *, target: int) -> None:
        self._namespaces = namespaces
        self._target = target
        self._ready: deque[Sockets] = deque()
        self._taken = asyncio.Event()

    @property
    def ready(self) -> int:
        return len(self._ready)

    async def take(self) -> Sockets:
        """
        One that is ready, or a new one; it is the caller's from here.

        Raises:
            Unavailable: As of `Namespaces.create`.
        """
        self._taken.set()
        return self._ready.popleft() if self._ready else await self._namespaces.create()

    async def run(self) -> None:
        """Keep the pool filled until cancelled, then close what is in it."""
        try:
            while True:
                self._taken.clear()
                retry_s = None if await self._fill() else _RETRY_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._taken.wait(), retry_s)
        finally:
            while self._ready:
                await self._namespaces.close(self._ready.popleft())

    async def _fill(self) -> bool:
        """Return whether it is full."""
        while len(self._ready) < self._target:
            try:
                self._ready.append(await self._namespaces.create())
            except Unavailable as error:
                log.warning("namespace pool not filled", why=error.detail, **error.context)
                return False
        return True
