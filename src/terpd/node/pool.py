"""
Warm pools: machines that run already, awake and exercised, waiting for a sandbox to claim them.

Under emulation a process's first run in a machine pays for translating its code; only a machine that *ran* the
template's warm commands hides that (docs/adr/0002-machine.md). An unclaimed machine holds no tenant's data; at its
claim it gets fresh entropy, clock, names and environment like any other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from terpd.node.machine import Machine


@dataclass(frozen=True, slots=True)
class PoolKey:
    template: str
    size: str
    nic: bool = False


@dataclass(slots=True)
class Pool:
    """
    The waiting machines, by kind. Pure book-keeping: who starts machines asks `wanted` what is missing.

    Args:
        targets: How many to keep waiting of each kind.
    """

    targets: Mapping[PoolKey, int]
    _waiting: defaultdict[PoolKey, list[Machine]] = field(default_factory=lambda: defaultdict(list))

    def claim(self, key: PoolKey) -> Machine | None:
        """Take the machine that has waited longest, of those whose guest answers; it is the caller's from here."""
        machine = next((each for each in self._waiting[key] if each.answers), None)
        if machine is not None:
            self._waiting[key].remove(machine)
        return machine

    def evict(self) -> Machine | None:
        """Give up a machine of the fullest pool, to make room for one that a sandbox asked for."""
        waiting = max(self._waiting.values(), key=len, default=None)
        return waiting.pop(0) if waiting else None

    def add(self, key: PoolKey, machine: Machine) -> None:
        self._waiting[key].append(machine)

    def discard(self, machine: Machine) -> None:
        """Forget a machine that ended while it waited."""
        for waiting in self._waiting.values():
            if machine in waiting:
                waiting.remove(machine)

    def wanted(self, *, but: Collection[PoolKey] = ()) -> PoolKey | None:
        """The kind that is furthest below its target, those in *but* left out; None when nothing is missing."""
        missing = {key: target - len(self._waiting[key]) for key, target in self.targets.items() if key not in but}
        key = max(missing, key=lambda each: missing[each], default=None)
        return key if key and missing[key] > 0 else None

    def waiting(self) -> list[Machine]:
        return [machine for machines in self._waiting.values() for machine in machines]
