"""Volumes: what is written to /persist is there for the next sandbox, whatever became of the one that wrote it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from support.server import Server, StartServer
from support.wait import eventually
from terp import InvalidRequest, Sandbox, Volume, VolumeInUse

pytestmark = pytest.mark.vm

MIB = 1 << 20


@pytest.fixture(scope="module")
def volume_server(start_server: StartServer) -> Server:
    """Keeps one warm machine."""
    return start_server("volumes", settings={"TERP_POOL": "debian-12/small=1"})


@pytest.fixture(scope="module")
def volume(volume_server: Server) -> Volume:
    """Of 512 MiB, never attached when the first test of this module gets it."""
    return Volume.create("data", 0.5, client=volume_server.client)


@pytest.fixture
def box(volume_server: Server, volume: Volume) -> Iterator[Sandbox]:
    with volume_server.create(volume=volume.name, timeout=3600) as sandbox:
        yield sandbox


def _warm(server: Server) -> set[str]:
    running = {monitor.machine_id for monitor in server.host.monitors() if monitor.machine_id}
    return (running & set(server.host.machines())) - set(server.host.owners().values())


def _holding(server: Server, needle: bytes) -> list[str]:
    """Files of the server's data directory that have *needle* in what they hold; holes are not read."""
    found = []
    for path in server.data_dir.rglob("*"):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            at, size = 0, path.stat().st_size
            while at < size:
                try:
                    at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                if needle in os.pread(file.fileno(), end - at, at):
                    found.append(str(path))
                at = end
    return found


def test_contents_outlive_sandboxes(volume_server: Server, volume: Volume) -> None:
    """It has its size, is encrypted on the server's disk, and a second sandbox finds what the first one wrote."""
    marker = secrets.token_hex(16)
    with volume_server.create(volume=volume.id) as first:
        size = int(first.exec("df --output=size -B1 /persist | tail -1").check().stdout)
        assert 400 * MIB < size <= 512 * MIB
        first.files.write("/persist/notes", f"{marker}\n" * 1000)
        volume.refresh()
        assert (volume.status, volume.info.attached_sandbox_id) == ("attached", first.id)

    volume.refresh()
    assert (volume.status, volume.info.attached_sandbox_id) == ("available", None)
    assert _holding(volume_server, marker.encode()) == []
    with volume_server.create(volume=volume.name) as second:
        assert second.files.read("/persist/notes") == f"{marker}\n" * 1000
        assert "clean" not in second.exec("dmesg | grep -i 'recovery complete'").stdout


def test_a_warm_machine_gets_a_volume(volume_server: Server, volume: Volume) -> None:
    """A machine that was waiting is given the volume that was asked for."""
    warm = eventually(lambda: _warm(volume_server), what="a machine is warm")
    with volume_server.create(volume=volume.name) as sandbox:
        assert volume_server.host.owners()[sandbox.id] in warm
        assert sandbox.exec("findmnt -no FSTYPE /persist").check().stdout == "ext4\n"


def test_it_goes_on_behind_a_pause(volume_server: Server, volume: Volume, box: Sandbox) -> None:
    """A file that is open and half written is so after the resume; a paused sandbox keeps its volume."""
    box.exec("setsid sh -c 'exec 3>/persist/log; while :; do echo line >&3; sleep 0.1; done' >/dev/null 2>&1 &").check()
    eventually(lambda: box.files.exists("/persist/log"))
    box.pause()
    with pytest.raises(VolumeInUse):
        volume_server.create(volume=volume.name)
    with pytest.raises(VolumeInUse):
        volume.delete()
    box.resume()
    lines = len(box.files.read("/persist/log"))
    eventually(lambda: len(box.files.read("/persist/log")) > lines, what="the program goes on writing")


def test_what_would_copy_it_is_refused(volume: Volume, box: Sandbox) -> None:
    """A snapshot or fork would be a second writer of one file system; moving and deleting wait for its end."""
    for act in (box.snapshot, box.fork):
        with pytest.raises(InvalidRequest, match="volume"):
            act()
    for refused in (volume.delete, lambda: volume.move("local")):
        with pytest.raises(VolumeInUse):
            refused()


def test_synced_writes_survive_the_monitors_death(volume_server: Server, volume: Volume) -> None:
    """The file system's journal is replayed at the next attach."""
    sandbox = volume_server.create(volume=volume.name)
    sandbox.exec("echo synced > /persist/kept; sync; echo torn > /persist/torn").check()
    volume_server.host.monitor_of(sandbox.id).kill()
    eventually(lambda: volume_server.status(sandbox) == "failed")
    with volume_server.create(volume=volume.name) as next_one:
        assert next_one.files.read("/persist/kept") == "synced\n"
        next_one.exec("echo more >> /persist/kept").check()


def test_a_moved_volume_is_fetched_again(volume_server: Server, volume: Volume) -> None:
    """A move leaves nothing where its disk was, and the next sandbox finds all of it."""
    with volume_server.create(volume=volume.name) as sandbox:
        sandbox.files.write("/persist/moved", "along")
    disk = volume_server.data_dir / "volumes" / volume.id / "disk.qcow2"
    assert disk.exists()
    volume.move("local")
    assert volume.status == "stored"
    assert not disk.exists()
    with volume_server.create(volume=volume.name) as sandbox:
        assert sandbox.files.read("/persist/moved") == "along"


def test_a_volume_is_made_by_its_first_name(volume_server: Server) -> None:
    """A create that names none there is makes one of 10 GiB; deleted, nothing of it is left."""
    with volume_server.create(volume="first reference") as sandbox:
        size = int(sandbox.exec("df --output=size -B1 /persist | tail -1").check().stdout)
        assert 9000 * MIB < size <= 10240 * MIB
    made = Volume.get("first reference", client=volume_server.client)
    assert made.size_mb == 10240
    made.delete()
    assert "first reference" not in [each.name for each in Volume.list(client=volume_server.client)]
    eventually(lambda: not (volume_server.data_dir / "volumes" / made.id).exists(), what="its files are gone")
