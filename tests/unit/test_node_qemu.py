"""The machine definition: one for template and clone, and nothing in it that lets a guest out."""

from __future__ import annotations

import itertools

from terpd.node.vmm.base import Hardware
from terpd.node.vmm.qemu import Boot, command_line

HARDWARE = Hardware(vcpus=2, memory_mib=4096)
BOOT = Boot(kernel="/m/kernel", initrd="/m/initrd", cmdline="quiet", console_set=2)


def line(boot: Boot | None) -> list[str]:
    return command_line("terp-x-m_1", HARDWARE, accel="tcg", qmp_fd=5, agent_fd=6, descriptors={1: 7}, boot=boot)


def devices(argv: list[str]) -> list[tuple[str, str]]:
    pairs = list(itertools.pairwise(argv))
    return [pair for pair in pairs if pair[0] in {"-device", "-M", "-cpu", "-smp", "-m", "-bios", "-global"}]


def test_template_and_clone_have_the_same_devices() -> None:
    """One device more or less and the state loads into a dead guest."""
    assert devices(line(BOOT)) == devices(line(None))


def test_only_a_template_may_write_its_memory_file() -> None:
    """A clone maps it privately from a read-only descriptor."""
    (template,) = [argument for argument in line(BOOT) if argument.startswith("memory-backend-file")]
    (clone,) = [argument for argument in line(None) if argument.startswith("memory-backend-file")]

    assert template.endswith("share=on")
    assert clone.endswith("share=off,readonly=on,rom=off")


def test_a_clone_has_no_network_no_balloon_and_a_full_sandbox() -> None:
    """Default closed: what is not on the command line cannot be attacked."""
    argv = line(None)

    assert "-nodefaults" in argv
    assert "-no-user-config" in argv
    assert not any("net" in argument or "balloon" in argument for argument in argv)
    sandbox = argv[argv.index("-sandbox") + 1]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def test_a_full_host_disk_is_the_guests_error() -> None:
    """QEMU's default stops the guest when the host has no space left, and nothing would let it go on."""
    assert "virtio-blk-device,drive=d0,werror=report,rerror=report" in line(None)


def test_the_console_of_a_clone_is_bounded() -> None:
    """A guest that floods its console must not fill a disk or the monitor's memory."""
    assert "ringbuf,id=s0,size=65536" in line(None)


def test_size_and_descriptors_arrive() -> None:
    """What the caller asked for is what QEMU is told."""
    argv = line(None)

    assert argv[argv.index("-smp") + 1] == "2"
    assert argv[argv.index("-m") + 1] == "4096M"
    assert "fd=7,set=1" in argv
    assert "socket,id=a0,fd=6,server=on,wait=off" in argv
