"""
Unix sockets by path, however long the path.

A socket address holds 108 bytes (unix(7)), a data directory may be deeper: so the directory is opened first and
the address is spelled through its descriptor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _address(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path) -> socket.socket:
    """Return a listening socket at *path*, its owner's alone, replacing what a dead process left there."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            sock.bind(address)
        path.chmod(0o600)  # before listen: whatever the umask, no stranger gets through in between
        sock.listen(1)
    except OSError:
        sock.close()
        raise
    return sock


def connect(path: Path) -> socket.socket:
    """
    Return a connected, non-blocking socket.

    Raises:
        OSError: Nobody listens; or BlockingIOError, whoever listens has not accepted those that came before.
    """
    # Non-blocking already when it connects: a monitor that accepts nobody must not hold up the daemon.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _address(path) as address:
            sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock
