"""
What fits on this host: pure book-keeping, with a hard cap and no overcommitment.

Every machine is charged its guest memory and the monitor's own; the sum never exceeds the cap, so a host that
admitted a machine can always back all its pages.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from terpd.model.errors import CapacityUnavailable
from terpd.model.ports import NodeCapacity
from terpd.node.jail.cgroup import OVERHEAD_BYTES

MONITOR_MIB = OVERHEAD_BYTES >> 20  # what a machine's cgroup lets its monitor have besides guest memory


@dataclass(slots=True)
class Admission:
    """
    Args:
        memory_cap_mib: For all machines together, monitors included.
        machines_cap: Warm ones included.
    """

    memory_cap_mib: int
    machines_cap: int
    _charged: dict[str, int] = field(default_factory=dict)

    def fits(self, memory_mib: int, *, without: Collection[str] = ()) -> bool:
        """Whether one more machine fits, were those *without* gone."""
        charged = [mib for machine_id, mib in self._charged.items() if machine_id not in without]
        return len(charged) < self.machines_cap and sum(charged) + memory_mib + MONITOR_MIB <= self.memory_cap_mib

    def admit(self, machine_id: str, memory_mib: int) -> None:
        """
        Raises:
            CapacityUnavailable: It does not fit; nothing was charged.
        """
        if not self.fits(memory_mib):
            use = self.capacity()
            raise CapacityUnavailable(
                "This node is full; try again when sandboxes have ended",
                context={"machines": use.machines_used, "memory_mib": use.memory_used_mib, "wanted_mib": memory_mib},
            )
        self.charge(machine_id, memory_mib)

    def charge(self, machine_id: str, memory_mib: int) -> None:
        """Count a machine that is there already, fitting or not."""
        self._charged[machine_id] = memory_mib + MONITOR_MIB

    def release(self, machine_id: str) -> None:
        self._charged.pop(machine_id, None)

    def capacity(self) -> NodeCapacity:
        return NodeCapacity(
            memory_used_mib=sum(self._charged.values()),
            memory_cap_mib=self.memory_cap_mib,
            machines_used=len(self._charged),
            machines_cap=self.machines_cap,
        )
