"""What wakes the reaper: told of each new end, it rings when one comes before the end that is slept for."""

from __future__ import annotations

import asyncio
import datetime as dt

from terpd.control.clock import Clock


class Alarm:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rung = asyncio.Event()
        self._set_for: dt.datetime | None = None  # None: being found out, so any new end may be the next

    def notice(self, at: dt.datetime | None) -> None:
        """A lease, or a paused sandbox's time, now ends at *at*; None: at no time."""
        if at is not None and (self._set_for is None or at < self._set_for):
            self._rung.set()

    def clear(self) -> None:
        """Begin to find out what is next: whatever is noticed from here on ends the sleep that follows."""
        self._rung.clear()
        self._set_for = None

    async def sleep(self, until: dt.datetime, *, shortest_s: float) -> None:
        """Until *until*, or an earlier end is noticed; not below *shortest_s* unless one is."""
        self._set_for = until
        await self._clock.wait(self._rung, max((until - self._clock.now()).total_seconds(), shortest_s))
