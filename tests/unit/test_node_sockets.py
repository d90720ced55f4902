"""Unix sockets of a machine: of any depth, never waited for, closed to strangers."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from terpd.node.vmm import sockets


def test_a_path_longer_than_an_address_is_reached(tmp_path: Path) -> None:
    """A data directory may lie deeper than the 107 bytes of a socket address."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)

    with sockets.listen(directory / "qmp.sock") as listener, sockets.connect(directory / "qmp.sock") as client:
        accepted, _ = listener.accept()
        accepted.sendall(b"x")
        accepted.close()
        client.setblocking(True)
        assert client.recv(1) == b"x"


def test_nobody_waits_for_a_monitor_that_accepts_nobody(tmp_path: Path) -> None:
    """Each daemon that connected to a monitor that stands still fills its backlog; the next must start all the same."""
    path = tmp_path / "qmp.sock"
    with sockets.listen(path):
        clients = []
        with pytest.raises(BlockingIOError):
            clients.extend(sockets.connect(path) for _ in range(10))
        for client in clients:
            client.close()


def test_other_users_cannot_connect(tmp_path: Path) -> None:
    """Connecting needs the right to write (unix(7)), and a careless umask must not give it."""
    before = os.umask(0)
    try:
        with sockets.listen(tmp_path / "agent.sock"):
            assert stat.S_IMODE((tmp_path / "agent.sock").stat().st_mode) == 0o600
    finally:
        os.umask(before)
