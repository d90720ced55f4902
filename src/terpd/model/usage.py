"""What sandboxes use of their host: a live window, and totals that outlive pauses and restarts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLE_INTERVAL_S = 1
WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class UsageSample:
    """`cpu_percent` of the cores it has (all busy is 100); `memory_bytes` is its working set."""

    at: dt.datetime
    cpu_percent: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LiveUsage:
    """
    The last minute of a machine. `cores_used` and `memory_bytes` are of its last sample; None before there are two.

    `samples` are oldest first, one a second, 60 at most.
    """

    cores_used: float | None
    memory_bytes: int | None
    samples: Sequence[UsageSample]


@dataclass(frozen=True, slots=True)
class MachineTotal:
    """
    What one machine has used since it was started; only ever grows. A sandbox has another machine after each resume.

    Attributes:
        machine: Names this machine among all the sandbox ever had.
        memory_byte_s: Its working set, summed up over seconds.
    """

    machine: str
    cpu_us: int
    memory_byte_s: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of a sandbox, or of a tenant. A GB is 10^9 bytes."""

    cpu_seconds: float
    gb_seconds: float
