"""Work that must not stop half-way because the caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Shielded:
    """Runs coroutines to their end whatever happens to who awaits them; `drain` waits for all at shutdown."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run *work* in the background, for one or more to `join`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def join(self, task: asyncio.Task[_T]) -> _T:
        """Await what was begun. A cancelled caller leaves at once, the work goes on, and its failure is then logged."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                task.add_done_callback(_report)
            raise

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Begin *work* and join it."""
        return await self.join(self.begin(work))

    def leave(self, work: Coroutine[Any, Any, object]) -> None:
        """Begin *work* that nobody joins; its failure is logged."""
        self.begin(work).add_done_callback(_report)

    async def drain(self, seconds: float) -> None:
        """Wait for what runs, *seconds* at most; what is not done then is left to the next start."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("abandoned_work_failed", error=type(error).__name__, exc_info=error)
