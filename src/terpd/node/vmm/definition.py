"""
The command line of a QEMU microvm: one machine definition for template and clone.

Why each flag stands there: docs/adr/0002-machine.md; what a clone's disk consists of: docs/adr/0003-saved-states.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from terpd.model.network import GUEST_MAC
from terpd.node.vmm.base import Hardware
from terpd.node.vmm.running import (
    BACKING_NAME,
    EMPTY_SLOT,
    SLOT_NODE,
    TEMPLATE_NODE,
    layer_options,
    slot_options,
    volume_options,
)

MOUNT = "/m"  # where a machine's files appear inside its jail

_SLOT_SERIAL = "terp-volume"  # by which the guest's agent knows it
_CONSOLE_BYTES = 65536  # of the guest's serial output kept in QEMU, for a post-mortem


@dataclass(frozen=True, slots=True)
class Boot:
    """What only a cold boot needs."""

    kernel: str
    initrd: str
    cmdline: str
    console_set: int


def command_line(
    name: str,
    hardware: Hardware,
    *,
    accel: str,
    qmp_fd: int,
    agent_fd: int,
    descriptors: Sequence[tuple[int, int]],
    boot: Boot | None,
    layers: int = 1,
    volume: bool = False,
    tap_fd: int | None = None,
) -> list[str]:
    """
    Return QEMU's argument vector; pure.

    Template and clone must agree on every device, or the state loads "successfully" into a dead guest: so both come
    from here, and only memory sharing, kernel, console and what the disk consists of differ.

    Args:
        accel: Value of -accel.
        descriptors: Number of an fdset and inherited file descriptor.
        boot: None restores: QEMU waits for `migrate-incoming`.
        volume: At a restore, behind the slot; its secret is the file `k<layers>`.
        tap_fd: If the hardware has a network device, which is the last one, so that all others are the same without it.
        layers: Of the machine's own disk, at a restore; their secrets are the files `k0`, `k1`, … beside the disk.
    """
    disk, top = _template_disk() if boot else _layered_disk(layers)
    share = "share=on" if boot else "share=off,readonly=on,rom=off"
    argv = [
        "/usr/bin/qemu-system-x86_64",
        *("-name", name),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
        *("-M", "microvm,pit=off,pic=off,memory-backend=m0,suppress-vmdesc=on"),
        *("-accel", accel),
        *("-cpu", "max"),
        *("-smp", str(hardware.vcpus)),
        *("-m", f"{hardware.memory_mib}M"),
        *("-bios", "qboot.rom"),
        *("-object", f"memory-backend-file,id=m0,mem-path={MOUNT}/memory,size={hardware.memory_mib}M,{share}"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-chardev", f"socket,id=a0,fd={agent_fd},server=on,wait=off"),
        *("-device", "virtserialport,chardev=a0,name=terp.agent"),
        *disk,
        # A full host disk is the guest's I/O error. By default QEMU would stop the guest, and nobody would wake it.
        *("-device", f"virtio-blk-device,drive={top},werror=report,rerror=report"),
        *_slot(hardware, layers if volume else None),
        *_network(hardware, tap_fd),
        *("-chardev", f"socket,id=q0,fd={qmp_fd},server=on,wait=off"),
        *("-mon", "chardev=q0,mode=control"),
        *("-global", "migration.send-configuration=off"),
        *("-global", "migration.store-global-state=off"),
        # A guest that reboots or panics ends; it could not boot again anyway (its firmware's memory is not restored).
        *("-action", "reboot=shutdown,panic=shutdown"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ]
    for number, fd in descriptors:
        argv += ["-add-fd", f"fd={fd},set={number}"]
    if boot is None:
        argv += ["-chardev", f"ringbuf,id=s0,size={_CONSOLE_BYTES}", "-serial", "chardev:s0", "-incoming", "defer"]
    else:
        argv += ["-chardev", f"file,id=s0,path=/dev/fdset/{boot.console_set}", "-serial", "chardev:s0"]
        argv += ["-kernel", boot.kernel, "-initrd", boot.initrd, "-append", boot.cmdline]
    return argv


def _network(hardware: Hardware, tap_fd: int | None) -> list[str]:
    if hardware.nic != (tap_fd is not None):
        raise ValueError("a network device and the descriptor of its TAP go together")
    if tap_fd is None:
        return []
    # Nobody is to be told where the guest is now: its only neighbour has its address by heart.
    device = f"virtio-net-device,netdev=n0,mac={GUEST_MAC},guest_announce=off"
    return ["-netdev", f"tap,id=n0,fd={tap_fd}", "-device", device]


def _slot(hardware: Hardware, secret: int | None) -> list[str]:
    """The second disk: a volume, whose secret is the file `k<secret>`, or nothing, from which a guest reads zeros."""
    if not hardware.slot:
        if secret is not None:
            raise ValueError("a volume needs a slot")
        return []
    argv = [] if secret is None else ["-object", f"secret,id=kv,file={MOUNT}/k{secret}"]
    for options in [EMPTY_SLOT] if secret is None else volume_options():
        argv += ["-blockdev", _json(options)]
    argv += ["-blockdev", _json(slot_options(volume=secret is not None))]
    # Blocks of one size, whatever stands behind it: they are part of the device's state.
    blocks = "logical_block_size=512,physical_block_size=4096"
    device = f"virtio-blk-device,drive={SLOT_NODE},serial={_SLOT_SERIAL},{blocks},werror=report,rerror=report"
    return [*argv, "-device", device]


def _template_disk() -> tuple[list[str], str]:
    """The options of the disk that a template boots from, and the node that its device uses."""
    options = "discard=unmap,cache.no-flush=on"
    file = f"driver=file,node-name=f,filename={MOUNT}/disk.qcow2,{options}"
    return ["-blockdev", file, "-blockdev", f"driver=qcow2,node-name={TEMPLATE_NODE},file=f,{options}"], TEMPLATE_NODE


def _layered_disk(layers: int) -> tuple[list[str], str]:
    """The options of a restored machine's disk, and the node that its device uses."""
    argv = [
        *("-blockdev", f"driver=file,node-name=f,filename={MOUNT}/{BACKING_NAME},read-only=on"),
        *("-blockdev", f"driver=qcow2,node-name={TEMPLATE_NODE},file=f,read-only=on"),
    ]
    below = TEMPLATE_NODE
    for number in range(layers):
        argv += ["-object", f"secret,id=k{number},file={MOUNT}/k{number}"]
        for options in layer_options(number, below, frozen=number < layers - 1):
            argv += ["-blockdev", _json(options)]
        below = f"l{number}"
    return argv, below


def _json(options: Mapping[str, Any]) -> str:
    return json.dumps(options, separators=(",", ":"))


def kernel_arguments(accel: str, tsc_khz: int) -> str:
    """Return what the guest's kernel is told at a cold boot; pure. Reasons: docs/adr/0002-machine.md."""
    # reboot=t: by a triple fault, which ends the machine at once. The kernel's own first choice here is a keyboard
    # controller that a microvm has not; a guest that reboots or panics would poll it for minutes.
    arguments = "console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on"
    if accel == "kvm":
        return arguments
    # lpj is loops_per_jiffy at 250 Hz, the tick of Debian's kernels.
    return f"{arguments} tsc=reliable tsc_early_khz={tsc_khz} lpj={tsc_khz * 1000 // 250} no_timer_check"
