"""
The initramfs: the guest agent as /init and the few modules that disk and network need, in the "newc" cpio format.

It is apart from the root file system so that a new agent never rebuilds a template's image.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from terpd.node.template import artifact
from terpd.node.template.command import BuildFailed
from terpd.node.template.kernel import Kernel

# In load order. Debian's 6.12 cloud kernel has ext4, virtio, virtio_pci and virtio_console built in (measured).
# Where there is no network device the last three do nothing.
MODULES = ("virtio_mmio", "virtio_blk", "failover", "net_failover", "virtio_net")
_KEPT = 4  # older ones may just be booted by somebody who looked them up before


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One member of the archive. `path` is relative, parents come first.

    `mode` holds type and permissions as in stat(2); `device` is (major, minor) of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, data)


def archive(entries: Iterable[Entry]) -> bytes:
    """
    Return a cpio archive of *entries*, all owned by root, with no times: equal input gives equal bytes.

    Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    packed = [_member(number, entry) for number, entry in enumerate(entries, start=1)]
    packed.append(_member(0, Entry("TRAILER!!!", 0)))
    return b"".join(packed)


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def ensure_initrd(home: Path, kernel: Kernel, agent: Path) -> Path:
    """
    Return the initramfs of this kernel and this agent, made first when it is not there.

    Args:
        home: TERP_HOME; it goes to `initrd/<digest>.cpio`.
        kernel: Its modules go in.
        agent: The statically linked guest agent.

    Raises:
        BuildFailed: The agent is not there, or the kernel lacks a module.
    """
    if not agent.is_file():
        raise BuildFailed(f"The guest agent is not built; `make setup` builds it: {agent}")
    content = archive(_entries(kernel, agent.read_bytes()))
    parent = home / "initrd"
    final = parent / f"{hashlib.sha256(content).hexdigest()[: artifact.DIGEST_LENGTH]}.cpio"
    with artifact.locked(parent, "initrd"):
        if not final.is_file():
            with artifact.building(parent, "initrd") as temporary:
                whole = temporary / final.name
                whole.write_bytes(content)
                whole.chmod(0o444)
                artifact.commit(whole, final)
        os.utime(final)
        _prune(parent)
    return final


def _entries(kernel: Kernel, agent: bytes) -> list[Entry]:
    entries = [directory(name) for name in ("dev", "proc", "sys", "newroot", "modules")]
    # The kernel opens it as the standard streams of /init before anything could mount /dev.
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    order: list[str] = []
    for name in MODULES:
        packed = next(kernel.modules.rglob(f"{name}.ko.xz"), None)
        if packed is None:
            raise BuildFailed(f"Kernel {kernel.version} has no module {name}.ko.xz")
        entries.append(file(f"modules/{name}.ko", lzma.decompress(packed.read_bytes())))
        order.append(f"{name}.ko\n")
    entries.append(file("modules/order", "".join(order).encode()))
    entries.append(file("init", agent, 0o755))
    return entries


def _prune(parent: Path) -> None:
    made = sorted(parent.glob("*.cpio"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in made[_KEPT:]:
        path.unlink(missing_ok=True)
