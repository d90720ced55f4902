"""
The disk of a volume: one qcow2 file with LUKS inside, which starts as an empty ext4 file system.

It stands on nothing else, so that it moves and is encrypted as one file. The file system is made on the host once,
before any guest has seen the disk; after that the host never looks into it.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from terpd.model.volume import MAX_SIZE_MIB

# Named one by one, so that whatever this host's mke2fs makes by default, a guest's kernel and e2fsck can work with it.
_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,"
    "extra_isize,metadata_csum"
)
_TIMEOUT_S = 120.0
_SIZE_AT = 24  # of the virtual size in a qcow2 header, big-endian (QEMU, docs/interop/qcow2.rst)


def secret_of(key: bytes) -> bytes:
    """What opens a volume's disk, of its data key: 32 bytes."""
    return hmac.digest(key, b"terp volume disk", "sha256")


def make_empty(path: Path) -> None:
    """
    Make the empty encrypted disk that others are copied from: of the largest size, which is cut for each of them. Its
    own key is thrown away. Takes 1.7 s, once.
    """
    with _passphrase(secrets.token_bytes(32)) as secret:
        options = "encrypt.format=luks,encrypt.key-secret=luks,encrypt.iter-time=10"
        _run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *_object(secret), "-o", options, path, f"{MAX_SIZE_MIB}M"],
            secret,
        )


def format_disk(path: Path, *, size_mib: int, secret: bytes) -> None:
    """
    Give a copy of the empty disk its size and a file system. Blocks for 0.1 s.

    Raises:
        OSError, subprocess.SubprocessError: There is no room, or a program is missing or failed.
    """
    with path.open("r+b") as file:
        file.seek(_SIZE_AT)
        file.write(struct.pack(">Q", size_mib << 20))
    # Sparse: some megabytes, whatever its size.
    with tempfile.NamedTemporaryFile(dir=path.parent) as plain, _passphrase(secret) as passphrase:
        plain.truncate(size_mib << 20)
        extended = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
        options = ["-t", "ext4", "-F", "-b", "4096", "-I", "256", "-m", "0", "-e", "remount-ro", "-O", _FEATURES]
        _run(["mke2fs", "-q", *options, "-E", extended, plain.name])
        name = str(path).replace(",", ",,")  # as QEMU's options want it
        target = f"driver=qcow2,file.filename={name},encrypt.key-secret=luks"
        _run(
            [
                *("qemu-img", "convert", "-n", *_object(passphrase), "--target-image-opts"),
                *("-f", "raw", plain.name, target),
            ],
            passphrase,
        )


def _object(secret: int) -> list[str]:
    return ["--object", f"secret,id=luks,file=/proc/self/fd/{secret}"]


@contextlib.contextmanager
def _passphrase(secret: bytes) -> Iterator[int]:
    """A descriptor in memory from which a program reads QEMU's passphrase of *secret*: see `vmm.base.Layer`."""
    fd = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        os.write(fd, secret.hex().encode())
        yield fd
    finally:
        os.close(fd)


def _run(command: list[str | Path], *fds: int) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S, pass_fds=fds)
