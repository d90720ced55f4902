"""The initramfs: its archive format, what is in it, and when it is made anew."""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

import pytest

from terpd.node.template import initrd
from terpd.node.template.command import BuildFailed
from terpd.node.template.kernel import Kernel


def unpacked(archive: bytes) -> dict[str, initrd.Entry]:
    """Read a newc archive back as the kernel does: by its headers alone."""
    found: dict[str, initrd.Entry] = {}
    position = 0
    while True:
        header = archive[position : position + 110]
        assert header[:6] == b"070701"
        fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
        mode, size, major, minor, name_length = fields[1], fields[6], fields[9], fields[10], fields[11]
        name = archive[position + 110 : position + 110 + name_length - 1].decode()
        body = position + 110 + name_length
        body += -body % 4
        if name == "TRAILER!!!":
            assert body == len(archive)
            return found
        found[name] = initrd.Entry(name, mode, archive[body : body + size], (major, minor))
        position = body + size
        position += -position % 4


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    kernel = Kernel("0123", "6.12.0-test", tmp_path / "kernel/0123")
    for name in initrd.MODULES:
        path = kernel.modules / "kernel/drivers" / f"{name}.ko.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(f"module {name}".encode()))
    return kernel


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "terp-agent"
    path.write_bytes(b"\x7fELF agent")
    return path


@pytest.mark.parametrize("length", range(5))
def test_members_of_any_length_are_read_back(length: int) -> None:
    """Names and contents of every length modulo the alignment come back whole."""
    entries = [initrd.directory("d"), initrd.file("d/" + "n" * (length + 1), b"x" * length, 0o600)]

    found = unpacked(initrd.archive(entries))

    assert list(found.values()) == entries


def test_the_initramfs_holds_what_a_boot_needs(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    """The agent is /init, modules are unpacked and listed in load order, and the console is there before /dev is."""
    path = initrd.ensure_initrd(tmp_path, kernel, agent)

    found = unpacked(path.read_bytes())
    assert found["init"].data == agent.read_bytes()
    assert stat.S_IMODE(found["init"].mode) == 0o755
    order = found["modules/order"].data.decode().split()
    assert order[:2] == ["virtio_mmio.ko", "virtio_blk.ko"]
    assert order[2:] == ["failover.ko", "net_failover.ko", "virtio_net.ko"]  # each needs the one before
    assert found["modules/virtio_blk.ko"].data == b"module virtio_blk"
    assert stat.S_ISCHR(found["dev/console"].mode)
    assert found["dev/console"].device == (5, 1)
    assert all(stat.S_ISDIR(found[name].mode) for name in ("proc", "sys", "dev", "newroot"))


def test_a_new_agent_makes_a_new_initramfs(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    """The same kernel and agent give the same file; another agent gives another, and the old one can still boot."""
    first = initrd.ensure_initrd(tmp_path, kernel, agent)
    again = initrd.ensure_initrd(tmp_path, kernel, agent)
    agent.write_bytes(b"\x7fELF newer agent")
    newer = initrd.ensure_initrd(tmp_path, kernel, agent)

    assert first == again
    assert newer != first
    assert first.is_file()


def test_old_ones_do_not_pile_up(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    """After many agents, a handful of initramfs is left, the current one among them, and no temporary."""
    for number in range(8):
        agent.write_bytes(b"agent %d" % number)
        path = initrd.ensure_initrd(tmp_path, kernel, agent)

    assert path.is_file()
    assert len(list(path.parent.glob("*.cpio"))) == 4
    assert not list(path.parent.glob(".tmp-*"))


def test_a_missing_agent_says_how_to_build_it(tmp_path: Path, kernel: Kernel) -> None:
    """Without an agent there is no initramfs, and the message tells the way out."""
    with pytest.raises(BuildFailed, match="make setup"):
        initrd.ensure_initrd(tmp_path, kernel, tmp_path / "absent")


def test_a_kernel_without_a_module_is_refused(tmp_path: Path, kernel: Kernel, agent: Path) -> None:
    """A kernel that lacks the root disk's driver is found out now and not by a machine that does not boot."""
    next(kernel.modules.rglob("virtio_blk.ko.xz")).unlink()

    with pytest.raises(BuildFailed, match="virtio_blk"):
        initrd.ensure_initrd(tmp_path, kernel, agent)
