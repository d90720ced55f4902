"""What the doctor says of one fact."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

GIB = 1 << 30


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, but less well
    FAIL = "fail"  # no sandbox can start


@dataclass(frozen=True, slots=True)
class Check:
    """`found` is what is there; `advice` what to do, empty where nothing is."""

    name: str
    level: Level
    found: str
    advice: str = ""
