"""What a measurement comes to, and whether that is what was promised."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `value` and `floor` share a unit; `ratio` is theirs, and `goal` says what it should be."""

    name: str
    value: float
    floor: float
    unit: str
    goal: str
    ratio: float
    met: bool


def at_most(bound: float, name: str, values: Sequence[float], floors: Sequence[float], unit: str) -> Row:
    value, floor = statistics.median(values), statistics.median(floors)
    return Row(name, value, floor, unit, f"≤ {bound}", value / floor, value / floor <= bound)


def at_least(bound: float, name: str, value: float, floor: float, unit: str) -> Row:
    return Row(name, value, floor, unit, f"≥ {bound:.2g}", value / floor, value / floor >= bound)
