"""
The seam between machines and whatever emulates them.

A `Vmm` knows how to boot a machine, how to restore one from a template snapshot and how to find one again that
outlived the daemon. It knows nothing of sandboxes, leases or pools.

    boot ──► RunningVm ──save()──► snapshot files            (template preparation, once)
    restore(snapshot) ──► RunningVm                          (every create)
    adopt(process) ──► RunningVm                             (after a restart of the daemon)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from terpd.node.jail.cgroup import Cgroup
from terpd.node.jail.process import Process


class VmmFailed(Exception):
    """The monitor did not start, died or refused. For the log: the text may quote the monitor's own words."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a guest sees. A snapshot restores only onto equal hardware."""

    vcpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a machine lives on the host: its name, private directory, uid and cgroup."""

    name: str
    directory: Path  # holds sockets and what else the monitor needs, below one machine's directory
    uid: int
    cgroup: Cgroup | None


@dataclass(frozen=True, slots=True)
class BootSpec:
    """A cold boot. `memory_file` is created by the caller at full size and written through (share=on)."""

    placement: Placement
    hardware: Hardware
    kernel: Path
    initrd: Path
    memory_file: Path
    devices_file: Path  # where save() writes
    disk: Path
    disk_backing: Mapping[str, Path]  # name in the qcow2 header → file
    console_log: Path


@dataclass(frozen=True, slots=True)
class RestoreSpec:
    """A clone of a saved machine: memory and devices are read-only and shared, the disk is its own."""

    placement: Placement
    hardware: Hardware
    memory_file: Path
    devices_file: Path
    disk: Path
    disk_backing: Mapping[str, Path]


class RunningVm(Protocol):
    process: Process
    agent_socket: Path

    async def save(self) -> None:
        """
        Stop the machine and write its device state; memory is in the memory file already. It never runs again.

        The caller has disconnected from the agent before (the guest must find a closed channel when restored).
        """

    async def kill(self) -> None:
        """End the monitor at once and wait until it is gone. Idempotent."""

    async def close(self) -> None:
        """Let go of a machine that runs on."""


class Vmm(Protocol):
    @property
    def identity(self) -> Mapping[str, str]:
        """Build, accelerator, machine definition and host processor: what a snapshot must find unchanged."""

    async def boot(self, spec: BootSpec) -> RunningVm:
        """Raises VmmFailed; nothing is left running then."""

    async def restore(self, spec: RestoreSpec) -> RunningVm:
        """On return the guest runs. Raises VmmFailed; nothing is left running then."""

    async def adopt(self, placement: Placement, process: Process) -> RunningVm:
        """Raises VmmFailed when the monitor does not answer."""

    def running(self) -> Sequence[tuple[str, Process]]:
        """Name and process of every machine of this instance found on the host, recorded or not."""
