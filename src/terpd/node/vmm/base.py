"""
The seam between machines and whatever emulates them.

A `Vmm` knows how to boot a machine, how to restore one from a template snapshot and how to find one again that
outlived the daemon. It knows nothing of sandboxes, leases or pools.

    boot ──► RunningVm ──save()──► snapshot files            (template preparation, once)
    restore(snapshot) ──► RunningVm                          (every create, resume and fork)
    adopt(process) ──► RunningVm                             (after a restart of the daemon)
    stop ──► devices ──► [memory, by others] ──► push_layer ──► run      (a capture; `run` alone undoes it)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from terpd.node.jail.cgroup import Cgroup
from terpd.node.jail.process import Process


class VmmFailed(Exception):
    """The monitor did not start, died or refused. For the log: the text may quote the monitor's own words."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """
    What a guest sees. A snapshot restores only onto equal hardware.

    Attributes:
        nic: It has a network device.
        slot: It has a second disk, behind which nothing stands until a volume does. Earlier releases made none.
    """

    vcpus: int
    memory_mib: int
    nic: bool = False
    slot: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a machine lives on the host: its name, private directory, uid and cgroup."""

    name: str
    directory: Path  # holds sockets and what else the monitor needs, below one machine's directory
    uid: int
    cgroup: Cgroup | None


@dataclass(frozen=True, slots=True)
class BootSpec:
    """
    A cold boot. `memory_file` is created by the caller at full size and written through (share=on).

    `tap` is there if the hardware has a network device: a descriptor of its host's end, still the caller's.
    """

    placement: Placement
    hardware: Hardware
    kernel: Path
    initrd: Path
    memory_file: Path
    devices_file: Path  # where save() writes
    disk: Path
    disk_backing: Mapping[str, Path]  # name in the qcow2 header → file
    console_log: Path
    tap: int | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """
    One encrypted qcow2 file of a machine's disk, and the secret that opens it: 32 random bytes.

    Only the top one is written to; those below are frozen and may be shared.
    """

    path: Path
    secret: bytes = field(repr=False)

    @property
    def passphrase(self) -> bytes:
        """The LUKS passphrase: the secret in lower-case hexadecimal, for QEMU refuses one that is not UTF-8."""
        return self.secret.hex().encode()


@dataclass(frozen=True, slots=True)
class RestoreSpec:
    """
    A clone of a saved machine.

    Attributes:
        memory_file: The template's: read-only and shared.
        devices: The device state; never on a disk unless it is a template's.
        layers: The machine's own disk on top of the template's, lowest first; at least one.
        volume: The encrypted qcow2 file behind the slot, which the saved machine had there; None for nothing.
        disk_backing: The template's disk: name in the qcow2 header → file.
        tap: As in `BootSpec`; the monitor has it under the same number.
        inject: Awaited with the monitor's process once guest memory is mapped and before the device state is loaded:
            writes the pages that differ from the template's.
    """

    placement: Placement
    hardware: Hardware
    memory_file: Path
    devices: Path | bytes
    layers: Sequence[Layer]
    disk_backing: Mapping[str, Path]
    volume: Layer | None = None
    tap: int | None = None
    inject: Callable[[Process], Awaitable[None]] | None = None


class RunningVm(Protocol):
    process: Process
    agent_socket: Path

    async def save(self) -> None:
        """
        Stop the machine and write its device state; memory is in the memory file already. It never runs again.

        The caller has disconnected from the agent before (the guest must find a closed channel when restored).
        """

    # All of these raise VmmFailed when the monitor refuses or does not answer in time.

    async def is_running(self) -> bool:
        """Whether the guest's processors run."""

    async def stop(self) -> None:
        """
        Let the guest's processors stand still, with all that it wrote in the disk's file (not synced). Idempotent.

        The caller has disconnected from the agent before; this waits until the monitor has noticed, so that no device
        writes to guest memory from here on.
        """

    async def devices(self) -> bytes:
        """The device state of a stopped machine: some 10 KiB."""

    async def push_layer(self, layer: Layer) -> None:
        """
        Freeze the top layer and let a stopped machine write to *layer*, an empty one, from now on.

        It is the last step of a capture: what fails before needs no undoing of this one.
        """

    async def insert_volume(self, volume: Layer) -> None:
        """
        Put a volume behind the empty slot of a machine, whose guest has not used the slot and is to take it anew.

        Once only. Nobody else can open the file for writing until the machine has ended.
        """

    async def run(self) -> None:
        """Let a stopped machine run. Idempotent."""

    async def flatten(self, below: int) -> None:
        """
        Copy into the top layer what the *below* frozen layers under it hold, while the guest runs; afterwards the
        machine needs them no more. Cancelling leaves the machine as it was, the layers still needed.
        """

    async def kill(self) -> None:
        """End the monitor at once and wait until it is gone. Idempotent."""

    async def close(self) -> None:
        """Let go of a machine that runs on."""


class Vmm(Protocol):
    def identity(self, *, nic: bool, slot: bool = True) -> Mapping[str, str]:
        """Build, accelerator, machine definition and host processor: what a snapshot must find unchanged."""

    async def boot(self, spec: BootSpec) -> RunningVm:
        """Raises VmmFailed; nothing is left running then."""

    async def restore(self, spec: RestoreSpec) -> RunningVm:
        """On return the guest runs. Raises VmmFailed, or what `inject` raised; nothing is left running then."""

    async def adopt(self, placement: Placement, process: Process) -> RunningVm:
        """
        Whether the guest runs or stands still is left as it is. Raises VmmFailed when the monitor does not answer.
        """

    async def sweep(self) -> None:
        """
        Remove what a dead daemon's starts left outside of the machines' directories: secrets of layers, in memory.

        To be called before this daemon starts its first machine. One that is still starting then does not come up.
        """

    def running(self) -> Sequence[tuple[str, Process]]:
        """Name and process of every machine of this instance found on the host, recorded or not."""
