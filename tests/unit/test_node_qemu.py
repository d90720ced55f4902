"""The machine definition: one for template and clone, and nothing in it that lets a guest out."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from terpd.node.vmm.base import Hardware
from terpd.node.vmm.definition import Boot, command_line

HARDWARE = Hardware(vcpus=2, memory_mib=4096)
BOOT = Boot(kernel="/m/kernel", initrd="/m/initrd", cmdline="quiet", console_set=2)


def line(boot: Boot | None, layers: int = 1) -> list[str]:
    return command_line(
        "terp-x-m_1", HARDWARE, accel="tcg", qmp_fd=5, agent_fd=6, descriptors=[(1, 7)], boot=boot, layers=layers
    )


def networked(boot: Boot | None) -> list[str]:
    hardware = replace(HARDWARE, nic=True)
    return command_line(
        "terp-x-m_1", hardware, accel="tcg", qmp_fd=5, agent_fd=6, descriptors=[(1, 7)], boot=boot, tap_fd=8
    )


def devices(argv: list[str]) -> list[tuple[str, str]]:
    named = ((option, value.replace(f"drive={_top(argv)}", "drive=top")) for option, value in itertools.pairwise(argv))
    return [pair for pair in named if pair[0] in {"-device", "-M", "-cpu", "-smp", "-m", "-bios", "-global"}]


def _top(argv: list[str]) -> str:
    disk, _ = [argument for argument in argv if argument.startswith("virtio-blk-device")]
    return disk.removeprefix("virtio-blk-device,drive=").split(",")[0]


@pytest.mark.parametrize("layers", [1, 16])
def test_template_and_clone_have_the_same_devices(layers: int) -> None:
    """One device more or less and the state loads into a dead guest."""
    assert devices(line(BOOT)) == devices(line(None, layers))


def test_a_network_device_comes_behind_all_others() -> None:
    """Where there is none, all is as it was before there were any: states that were saved then can still be loaded."""
    with_nic, without = devices(networked(None)), devices(line(None))

    (nic,) = [pair for pair in with_nic if pair not in without]
    assert [pair for pair in with_nic if pair != nic] == without
    assert with_nic.index(nic) > max(at for at, pair in enumerate(with_nic) if pair[0] == "-device" and pair != nic)
    assert devices(networked(BOOT)) == with_nic
    assert "tap,id=n0,fd=8" in networked(None)
    assert not any("tap" in word for word in line(None))


def with_volume() -> list[str]:
    return command_line(
        "terp-x-m_1", HARDWARE, accel="tcg", qmp_fd=5, agent_fd=6, descriptors=[(1, 7)], boot=None, volume=True
    )


def test_a_volume_stands_behind_the_slot_of_every_machine() -> None:
    """The device is the same with and without one; what a guest flushes reaches the disk, other than of layers."""
    assert devices(with_volume()) == devices(line(None)) == devices(line(BOOT))
    nodes = [json.loads(word) for word in with_volume() if word.startswith('{"driver"')]
    (file,) = [node for node in nodes if node["node-name"] == "vf"]
    (slot,) = [node for node in nodes if node["node-name"] == "v"]
    assert (slot["file"], file["filename"]) == ("vq", "/dev/fdset/4")
    assert "cache" not in file
    assert "secret,id=kv,file=/m/k1" in with_volume()
    (nothing,) = [json.loads(word) for word in line(None) if word.startswith('{"driver":"null-co"')]
    assert nothing["read-zeroes"] is True


def test_machines_of_earlier_releases_have_no_slot() -> None:
    """Their saved states can still be loaded, and no volume can be given to them."""
    earlier = replace(HARDWARE, slot=False)
    argv = command_line("x", earlier, accel="tcg", qmp_fd=5, agent_fd=6, descriptors=[], boot=None)
    assert not any("terp-volume" in word or "null-co" in word for word in argv)
    with pytest.raises(ValueError, match="slot"):
        command_line("x", earlier, accel="tcg", qmp_fd=5, agent_fd=6, descriptors=[], boot=None, volume=True)


def test_a_device_is_not_made_without_its_tap() -> None:
    """QEMU would make up a network of its own."""
    with pytest.raises(ValueError, match="TAP"):
        command_line(
            "x", replace(HARDWARE, nic=True), accel="tcg", qmp_fd=5, agent_fd=6, descriptors=[(1, 7)], boot=None
        )


def test_only_the_top_layer_is_written_to_and_each_has_its_own_secret() -> None:
    """Frozen layers are shared with others; every one lies on the one below, the lowest on the template's disk."""
    argv = line(None, layers=3)

    nodes = [json.loads(value) for option, value in itertools.pairwise(argv) if value.startswith("{")]
    formats = [node for node in nodes if node["driver"] == "qcow2"]
    assert [(node["node-name"], node["backing"], node["read-only"]) for node in formats] == [
        ("l0", "t", True),
        ("l1", "l0", True),
        ("l2", "l1", False),
    ]
    assert [node["encrypt"] for node in formats] == [{"format": "luks", "key-secret": f"k{n}"} for n in range(3)]
    assert [node["read-only"] for node in nodes if node["driver"] == "file"] == [True, True, False]
    assert _top(argv) == "l2"


def test_no_secret_is_on_the_command_line() -> None:
    """Every user of the host can read it: it names the files that secrets are read from."""
    argv = line(None, layers=2)

    assert [value for option, value in itertools.pairwise(argv) if value.startswith("secret,")] == [
        "secret,id=k0,file=/m/k0",
        "secret,id=k1,file=/m/k1",
    ]


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
    assert "virtio-blk-device,drive=l0,werror=report,rerror=report" in line(None)


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
