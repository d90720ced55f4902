"""Telling whoever waits which step of a build runs and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Called in the building thread; must not raise."""

    def started(self, step: str) -> None: ...

    def finished(self, step: str, seconds: float, note: str) -> None:
        """*note* is a few words on the outcome, such as "cached" or "143 MB", or empty."""


class Quiet:
    """Progress that nobody watches."""

    def started(self, step: str) -> None:
        pass

    def finished(self, step: str, seconds: float, note: str) -> None:
        pass


class Step:
    """The step that runs now; set `note` to say how it ended."""

    def __init__(self) -> None:
        self.note = ""


@contextmanager
def step(progress: Progress, name: str) -> Iterator[Step]:
    """Report *name* as started, and as finished when the block ends without an error."""
    progress.started(name)
    began = time.monotonic()
    running = Step()
    yield running
    progress.finished(name, time.monotonic() - began, running.note)


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
