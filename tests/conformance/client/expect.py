"""What the cases say more than once: a call that must fail, a condition to wait for, a program to watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orkestr import Sandbox

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


def start_counter(sbx: Sandbox) -> None:
    """Start a program that counts in its own memory, and return when it does."""
    count_to_file = (
        "n=0; while :; do n=$((n+1)); echo $n > /tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.1; done"
    )
    sbx.exec(f"setsid sh -c '{count_to_file}' > /dev/null 2>&1 &")
    eventually(lambda: sbx.files.exists("/tmp/count"))


def count(sbx: Sandbox) -> int:
    """How far it has counted."""
    return int(sbx.files.read("/tmp/count"))
