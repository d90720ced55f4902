"""
Running a program inside a root file system that is being built.

It sees its own process, mount and *network* namespace: no program of a half-built template reaches the network or
the host's processes, and whatever was mounted disappears with the last of its processes, however that ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from terpd.node.template.command import run

# Mounts of its own, and processes that all die with the first of them, which dies with `unshare`.
ISOLATED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# /dev/shm: Python's multiprocessing (compileall -j) needs semaphores. dev nodes come with the tree from mmdebstrap.
_ENTER = """
set -e
root="$1"; shift
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/tmp"
exec env -i HOME=/root LANG=C.UTF-8 PATH="$TERP_GUEST_PATH" chroot "$root" "$@"
"""


def run_in(tree: Path, argv: Sequence[str], *, timeout_s: float = 300) -> bytes:
    """
    Run *argv* as root inside *tree* and return its standard output.

    Raises:
        BuildFailed: It failed; quotes the end of its output.
    """
    return run(
        [*ISOLATED, "--net", "--", "sh", "-c", _ENTER, "sh", tree, *argv],
        timeout_s=timeout_s,
        env={"TERP_GUEST_PATH": _PATH},
    )
