"""
What a snapshot was made of, written last: a directory with a manifest is whole, one without is rubbish.

QEMU loads state onto wrong memory, or into a machine with one device more, "successfully" and the guest is dead. So
everything that must agree is named here and compared before use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

FORMAT = 2
NAME = "manifest.json"


class SnapshotMismatch(Exception):
    """The snapshot does not fit this host, daemon or template; the text says which of them."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    Attributes:
        made_of: Everything a restore needs unchanged, by name: digests of image, kernel and initramfs, the
            VMM's identity, the hardware.
        sizes: Bytes of each file of the snapshot.
        devices_sha256: Of the device state.
        memory_digest: BLAKE3 of the memory, 64 hex digits: what is saved of a machine is the difference to this.
    """

    made_of: Mapping[str, str]
    sizes: Mapping[str, int]
    devices_sha256: str
    memory_digest: str
    virtual_disk_bytes: int
    format: int = FORMAT

    def write(self, directory: Path) -> None:
        """Write and sync, after the files it names."""
        for name in self.sizes:
            sync(directory / name)
        temporary = directory / f".{NAME}"
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        sync(temporary)
        temporary.rename(directory / NAME)
        sync(directory)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Raises SnapshotMismatch when there is none, or it is torn or of another format."""
        try:
            fields = json.loads((directory / NAME).read_text())
            if not isinstance(fields, dict) or fields.get("format") != FORMAT:
                raise SnapshotMismatch(f"{directory}: not a snapshot of format {FORMAT}, which this daemon reads")
            return cls(**fields)
        except (OSError, ValueError, TypeError) as error:
            raise SnapshotMismatch(f"{directory}: no readable manifest: {error}") from error

    def check(self, directory: Path, made_of: Mapping[str, str]) -> None:
        """
        Raises:
            SnapshotMismatch: Names each thing that differs, or the file that is not what was saved.
        """
        differing = sorted(
            f"{name} (saved {self.made_of.get(name)}, here {made_of.get(name)})"
            for name in {*self.made_of, *made_of}
            if self.made_of.get(name) != made_of.get(name)
        )
        if differing:
            raise SnapshotMismatch(f"{directory}: made with another {', '.join(differing)}")
        for name, size in self.sizes.items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != size:
                raise SnapshotMismatch(f"{path}: missing, or not of the {size} bytes saved")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory_digest(path: Path) -> str:
    """BLAKE3, 64 hex digits: 0.1 to 0.4 s for 512 MiB."""
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def sync(path: Path) -> None:
    """Fsync a file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
