"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import datetime as dt

from support.sandboxes import NOON


class FakeClock:
    def __init__(self, now: dt.datetime = NOON) -> None:
        self._now = now
        self._sleepers: list[tuple[dt.datetime, asyncio.Event]] = []

    def now(self) -> dt.datetime:
        return self._now

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Return when *event* is set or `advance` has reached the time. A short sleep passes by itself."""
        if seconds < 0.1:
            self.advance(seconds)
            await asyncio.sleep(0)
            return
        rung = asyncio.Event()
        entry = (self._now + dt.timedelta(seconds=seconds), rung)
        self._sleepers.append(entry)
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(rung.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.remove(entry)
            for task in waits:
                task.cancel()

    def advance(self, seconds: float) -> None:
        self._now += dt.timedelta(seconds=seconds)
        for until, rung in self._sleepers:
            if until <= self._now:
                rung.set()
