"""A root file system as one ext4 image: large when looked at from inside, sparse on the host, made without a mount."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from terpd.node.template.command import run

_BLOCK_BYTES = 64 * 1024

# No journal: a machine's disk is thrown away or saved together with its memory, never repaired after a power cut.
# No resize inode: it would keep blocks for a growth that a sandbox's disk does not see.
_FEATURES = "^has_journal,^resize_inode"
# The file is new and sparse, so its zeros need not be written, nor need the guest ever do it in the background,
# which would fill every sandbox's overlay with them.
_EXTENDED = "assume_storage_prezeroed=1,lazy_itable_init=0,root_owner=0:0"


def make(tree: Path, image: Path, size_bytes: int) -> None:
    """
    Write *tree* as an ext4 file system of *size_bytes* to *image*, a new file.

    Raises:
        BuildFailed: The tree does not fit, or the host's disk is full.
    """
    with image.open("xb") as file:
        file.truncate(size_bytes)
    run(
        [
            *("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, "-L", "terp-root", "-m", "0"),
            *("-O", _FEATURES, "-E", _EXTENDED, image),
        ],
        timeout_s=900,
    )
    image.chmod(0o444)


def digest(image: Path) -> str:
    """
    SHA-256 over the blocks of *image* that are not zero, each with its place: equal for equal contents, however sparse.
    """
    total = hashlib.sha256()
    with image.open("rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        total.update(end.to_bytes(8, "big"))
        position = 0
        while position < end:
            try:
                start = file.seek(position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole follows
                break
            stop = file.seek(start, os.SEEK_HOLE)
            position = start - start % _BLOCK_BYTES
            while position < stop:
                file.seek(position)
                block = file.read(_BLOCK_BYTES)
                if block.count(0) != len(block):
                    total.update(position.to_bytes(8, "big") + block)
                position += _BLOCK_BYTES
    return total.hexdigest()
