"""Whether to send a request again, and after how long. Pure: the caller sleeps."""

from __future__ import annotations

from terp.errors import CapacityUnavailable, ConnectionFailed, RequestTimeout, TerpError, Unavailable
from terp.protocol.request import Repeat

MAX_REPEATS = 3  # after a lost connection
FIRST_DELAY_S = 0.1  # doubled each time: 0.1, 0.2, 0.4

MAX_CAPACITY_REPEATS = 30
FIRST_CAPACITY_DELAY_S = 2.0  # where the server names no delay; doubled each time
MAX_CAPACITY_DELAY_S = 30.0


def plan_retry(
    repeat: Repeat, error: TerpError, *, failures: int, waited_s: float, wait_for_capacity_s: float
) -> float | None:
    """
    Return the seconds to wait before the same request is sent again; None to give up.

    Args:
        failures: How often it has failed, this time included.
        waited_s: Delays so far, summed.
        wait_for_capacity_s: Most that all delays for a full server may sum up to.
    """
    if isinstance(error, CapacityUnavailable):
        if failures > MAX_CAPACITY_REPEATS:  # else right for any request: nothing was created or changed
            return None
        delay = FIRST_CAPACITY_DELAY_S * 2 ** (failures - 1) if error.retry_after is None else error.retry_after
        delay = min(delay, MAX_CAPACITY_DELAY_S)
        return delay if waited_s + delay <= wait_for_capacity_s else None
    if failures > MAX_REPEATS or not _may_repeat(repeat, error):
        return None
    if error.retry_after is not None:
        return min(error.retry_after, MAX_CAPACITY_DELAY_S)
    return float(FIRST_DELAY_S * 2 ** (failures - 1))


def _may_repeat(repeat: Repeat, error: TerpError) -> bool:
    if isinstance(error, ConnectionFailed) and not error.sent:
        return True
    if repeat is Repeat.IF_UNSENT:
        return False
    if isinstance(error, RequestTimeout):
        return repeat is Repeat.IF_LOST_OR_SILENT  # a silent server: only for what would otherwise be paid for twice
    return isinstance(error, ConnectionFailed | Unavailable)
