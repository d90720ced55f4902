"""
The gate before a machine's guest: calls pass through it, and a capture closes it.

    open ──close──► closed (calls wait) ──open──► open
                       └── refuse ──► refusing (calls raise StateConflict) ──open──► open
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from terpd.model.errors import StateConflict


class Gate:
    def __init__(self) -> None:
        self._inside = 0
        self._refusal = ""
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set() and not self._refusal

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """
        For the time of one call; waits while the gate is closed.

        Raises:
            StateConflict: It refuses.
        """
        await self.passed()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def passed(self) -> None:
        """Wait until it is open. Raises as `passing`."""
        await self._open.wait()
        if self._refusal:
            raise StateConflict(self._refusal)

    async def close(self, *, timeout_s: float) -> bool:
        """Hold back new calls, and wait for those under way. False if some still are after that time."""
        self._open.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def open(self) -> None:
        self._refusal = ""
        self._open.set()

    def refuse(self, why: str) -> None:
        """Let those who wait, and all who come, know *why* they cannot pass."""
        self._refusal = why
        self._open.set()
