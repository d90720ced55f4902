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
    """Return a listening socket at *path*, replacing what a dead process left there."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _address(path) as address:
        sock.bind(address)
    sock.listen(1)
    return sock


def connect(path: Path) -> socket.socket:
    """Return a connected, non-blocking socket. Raises OSError when nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            sock.connect(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
