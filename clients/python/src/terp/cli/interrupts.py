"""
Ctrl-C and its like as an ordinary way out, so that what was started is ended.

SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread. While `held`, the first one waits for the end of
the block: a create that is broken off would leave a sandbox whose id nobody knows. A second one does not wait.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from terp.cli.terminal import complain

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(SystemExit):
    """Exits with 128 + the signal's number, as a shell reports it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class Interrupts:
    def __init__(self) -> None:
        self._held = False
        self._why = ""
        self._waiting: int | None = None

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._arrived)

    @contextlib.contextmanager
    def held(self, *, why: str) -> Iterator[None]:
        """Let the first signal wait; *why* tells the user what for."""
        self._held, self._why = True, why
        try:
            yield
        finally:
            self._held = False
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            raise Interrupted(waiting)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._held and self._waiting is None:
            self._waiting = number
            complain(f"{self._why}; once more to leave at once")
            return
        raise Interrupted(number)


interrupts = Interrupts()
