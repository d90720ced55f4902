"""The data directory belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from terpd.model.errors import Unavailable


def check_node(data_dir: Path, node_id: str) -> None:
    """
    See that the data directory is of this node, as which it is marked at its first use.

    Records name their node. What no record of this node knows is removed at a start: volumes and saved states, too.

    Raises:
        Unavailable: It is another node's.
    """
    mark = data_dir / "node_id"
    try:
        found = mark.read_text().strip()
    except FileNotFoundError:
        written = mark.with_suffix(".new")
        written.write_text(f"{node_id}\n")
        written.replace(mark)
        return
    if found != node_id:
        raise Unavailable(
            f"{data_dir} is of the node {found}, and this is {node_id}, by the host's name or by node_id. "
            f"To go on with it set node_id = {found!r}, or TERP_NODE_ID; what it holds would be removed otherwise"
        )


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """
    Make the data directory, and hold it. Two servers on one would reap each other's machines.

    Raises:
        Unavailable: Somebody else holds it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    data_dir.chmod(0o711)  # monitors, each an unprivileged uid, pass through to their own disk
    fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Unavailable(f"Another terpd serves this data directory; stop it or name another: {data_dir}") from None
    try:
        yield
    finally:
        os.close(fd)
