"""What sandboxes use of their host: a live window, and totals that outlive pauses and restarts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from terpd.model.ids import SandboxId

SAMPLE_INTERVAL_S = 1
WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class UsageSample:
    """
    One second of a machine.

    Attributes:
        cores_used: On average since the sample before.
        memory_bytes: The working set, without what the kernel can take back at once.
    """

    at: dt.datetime
    cores_used: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LiveUsage:
    """The last minute of a machine: `samples` are oldest first, one a second, `WINDOW_S` at most, and may be none."""

    samples: Sequence[UsageSample]


@dataclass(frozen=True, slots=True)
class MachineTotal:
    """
    What one machine has used since it was its sandbox's; only ever grows. A sandbox has another one after each resume.

    Attributes:
        machine: Names this machine among all the sandbox ever had.
        memory_byte_s: Its working set, summed up over seconds.
    """

    sandbox_id: SandboxId
    machine: str
    cpu_us: int
    memory_byte_s: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of a sandbox, or of a tenant. A GB is 10^9 bytes."""

    cpu_seconds: float
    gb_seconds: float
