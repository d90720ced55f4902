"""
qcow2 overlays: a machine's own writes on top of its template's frozen disk, encrypted under a secret of their own.

A template keeps an empty encrypted overlay at hand. Creating one by qemu-img takes 1.7 s, which is spent on measuring
how fast this processor derives keys; a copy of the empty one with a new key in its header takes about 2 ms.
Names of backing files are relative, since QEMU sees them in its jail and not where they are on the host.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from terpd.model.errors import StorageFull
from terpd.node.vault import Vault, VaultFailed

ROOT_NAME = "root.ext4"  # the template's file system, raw
BASE_NAME = "base.qcow2"  # what the template's own boot wrote, frozen

_CREATE_S = 30.0


def create_on_root(path: Path, virtual_bytes: int) -> None:
    """Create an overlay on a raw root file system that QEMU will find as `root.ext4` beside it. Not encrypted."""
    _create(path, ROOT_NAME, "raw", virtual_bytes)


def create_on_base(path: Path, virtual_bytes: int) -> None:
    """
    Create the empty encrypted overlay that `create` copies, on a frozen overlay found as `base.qcow2` beside it.

    What opens this one is thrown away: no copy has its key.
    """
    with tempfile.NamedTemporaryFile() as secret:
        secret.write(secrets.token_hex().encode())
        secret.flush()
        options = ["encrypt.format=luks", "encrypt.key-secret=luks", "encrypt.iter-time=10"]  # the least: 10 ms
        _create(
            path,
            BASE_NAME,
            "qcow2",
            virtual_bytes,
            ["--object", f"secret,id=luks,file={secret.name}", "-o", ",".join(options)],
        )


async def create(vault: Path, empty: Path, target: Path, *, secret: bytes, uid: int) -> None:
    """
    Create *target*, an empty overlay like *empty*, owned by and readable for *uid* alone. Not synced.

    Args:
        vault: The program `terp-vault`.
        secret: 32 random bytes; QEMU's passphrase is their lower-case hexadecimal (`Layer.passphrase`).

    Raises:
        StorageFull, VaultFailed: There is no *target*, or not one that anybody may use.
    """
    arguments = ["overlay", "--from", str(empty), "--to", str(target)]
    try:
        async with Vault(vault, arguments, secret=secret) as running:
            await running.event("done", within_s=_CREATE_S)
    except VaultFailed as error:
        if error.code == "disk_full":
            detail = "The server's disk has no room for another machine; try again later"
            raise StorageFull(detail, context={"vault": str(error)}) from error
        raise
    if os.geteuid() == 0:
        os.chown(target, uid, uid)


def _create(path: Path, backing: str, backing_format: str, virtual_bytes: int, options: Sequence[str] = ()) -> None:
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, "-b", backing, "-F", backing_format]
    subprocess.run([*command, path, str(virtual_bytes)], check=True, capture_output=True, timeout=60)
