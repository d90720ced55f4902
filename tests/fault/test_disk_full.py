"""A disk without room: whoever runs goes on, and is told what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.keeper import assert_kept, start_keeper
from support.server import Server
from terp import StorageFull

pytestmark = pytest.mark.vm

_DISK_MIB = 160
_TEMPLATE = "python-3.12-bare"


@pytest.fixture
def small_disk(own_server: Callable[..., Server]) -> Iterator[Server]:
    """A server whose data directory has a file system of its own, of 160 MiB."""
    server = own_server(settings={"TERP_DISK_RESERVE_MIB": "1"})
    server.data_dir.mkdir(parents=True)
    options = f"size={_DISK_MIB}m,mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "terp-test", str(server.data_dir)], check=True)
    try:
        server.start()
        yield server
        for sandbox in server.list():
            sandbox.terminate()
        server.stop()
    finally:
        server.discard()
        subprocess.run(["umount", "--lazy", str(server.data_dir)], check=True)


def _fill(server: Server) -> Path:
    """Take all room but 4 MiB, in a file that can be removed."""
    filler = server.data_dir / "filler"
    free = int(subprocess.check_output(["stat", "-f", "-c", "%a", str(server.data_dir)])) * 4096
    subprocess.run(["fallocate", "-l", str(free - (4 << 20)), str(filler)], check=True)
    return filler


def test_a_pause_without_room_changes_nothing(small_disk: Server) -> None:
    sandbox = small_disk.create(_TEMPLATE, timeout=3600)
    kept = start_keeper(sandbox)
    filler = _fill(small_disk)

    with pytest.raises(StorageFull) as refused:
        sandbox.pause()

    assert "room" in refused.value.detail
    assert small_disk.status(sandbox) == "running"
    kept = assert_kept(sandbox, kept)
    filler.unlink()
    sandbox.pause()
    sandbox.resume()
    assert_kept(sandbox, kept)


def test_a_fork_and_a_snapshot_without_room_leave_nothing(small_disk: Server) -> None:
    sandbox = small_disk.create(_TEMPLATE, timeout=3600)
    kept = start_keeper(sandbox)
    _fill(small_disk)

    with pytest.raises(StorageFull):
        sandbox.snapshot()
    with pytest.raises(StorageFull):
        sandbox.fork(2)

    assert [each.id for each in small_disk.list(status="running")] == [sandbox.id]
    assert small_disk.host.machines() == [small_disk.host.monitor_of(sandbox.id).machine_id]
    assert_kept(sandbox, kept)
