"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0  # of a busy two-core machine under emulation; no test measures by it


def eventually(probe: Callable[[], T | None], *, what: str = "", patience_s: float = PATIENCE_S) -> T:
    """
    Repeat *probe* until its result is true, and return that.

    Raises:
        AssertionError: It did not come true; *what* is in the message, and the last result.
    """
    deadline = time.monotonic() + patience_s
    while not (result := probe()):
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what or probe}: {result!r}"
        time.sleep(0.05)
    return result
