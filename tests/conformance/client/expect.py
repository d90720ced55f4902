"""What the cases say more than once: a call that must fail, a condition to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")

_PATIENCE_S = 60.0  # a busy two-core machine under emulation; nothing is measured by it


def raises(kind: type[E], call: Callable[[], object]) -> E:
    """Call, and return the exception of exactly this *kind* that must come."""
    try:
        result = call()
    except kind as error:
        assert type(error) is kind, f"a {kind.__name__} was to come, not its subclass {error!r}"
        return error
    raise AssertionError(f"{kind.__name__} was to come, but the call returned {result!r}")


def eventually(call: Callable[[], T]) -> T:
    """Repeat *call* until its result is true."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (result := call()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)
    return result
