"""Disks of volumes with the real programs: made, encrypted, checkpointed to every artifact store, and fetched again."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from pathlib import Path

import pytest
from support.artifacts import Shop

from terpd.daemon.node import VAULT
from terpd.model.errors import StateConflict, StateDamaged, Unavailable
from terpd.model.ids import new_volume_id
from terpd.model.volume import VolumeRef
from terpd.node.artifacts.base import ArtifactStore
from terpd.node.snapshot.sealer import VaultSealer
from terpd.node.vmm.base import Layer
from terpd.node.volumes.disk import make_empty
from terpd.node.volumes.volumes import Volumes


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty disk that others are copied from; making it takes 1.7 s."""
    path = tmp_path_factory.mktemp("empty") / "empty.qcow2"
    make_empty(path)
    return path


@pytest.fixture
async def store(shop: Shop) -> ArtifactStore:
    store = shop.store()
    await store.open()
    return store


@pytest.fixture
async def volumes(store: ArtifactStore, tmp_path: Path, empty: Path) -> Volumes:
    volumes = Volumes(tmp_path / "volumes", VaultSealer(VAULT), store)
    await volumes.open()
    os.link(empty, tmp_path / "volumes/empty.qcow2")
    return volumes


def new_ref(size_mib: int = 300) -> VolumeRef:
    return VolumeRef(new_volume_id(), size_mib, secrets.token_bytes(32), new=True)


def known(ref: VolumeRef) -> VolumeRef:
    """As after its first use."""
    return VolumeRef(ref.id, ref.size_mib, ref.key)


async def held(volumes: Volumes, ref: VolumeRef) -> Layer:
    await volumes.hold(ref.id)
    try:
        return await volumes.prepare(ref)
    finally:
        volumes.release(ref.id)


def plain(disk: Layer, target: Path) -> Path:
    """What a guest would see, as a raw file."""
    fd = os.memfd_create("secret")
    os.write(fd, disk.passphrase)
    options = f"driver=qcow2,file.filename={disk.path},encrypt.key-secret=s"
    argv = ["qemu-img", "convert", "--object", f"secret,id=s,file=/proc/self/fd/{fd}", "--image-opts", options]
    subprocess.run([*argv, "-O", "raw", target], check=True, pass_fds=[fd])
    os.close(fd)
    return target


async def test_a_new_disk_is_an_empty_file_system(volumes: Volumes, tmp_path: Path) -> None:
    """Of its size, whole, sparse, and readable with its key alone."""
    ref = new_ref()
    disk = await held(volumes, ref)
    assert disk.path.stat().st_mode & 0o777 == 0o600
    assert disk.path.stat().st_blocks * 512 < 8 << 20
    raw = plain(disk, tmp_path / "raw")
    assert raw.stat().st_size == 300 << 20
    check = await asyncio.create_subprocess_exec("e2fsck", "-fn", raw, stdout=subprocess.DEVNULL)
    assert await check.wait() == 0
    with pytest.raises(subprocess.CalledProcessError):
        plain(Layer(disk.path, secrets.token_bytes(32)), tmp_path / "other")
    assert await held(volumes, known(ref)) == disk


async def test_a_checkpoint_is_fetched_again(volumes: Volumes, store: ArtifactStore, tmp_path: Path) -> None:
    """The disk is in the store alone until it is wanted, and then here alone."""
    ref = new_ref()
    disk = await held(volumes, ref)
    content = disk.path.read_bytes()
    for _ in range(2):
        await volumes.checkpoint(known(ref))
    assert not disk.path.parent.exists()
    assert len(await store.names(f"volumes/{ref.id}/")) == 2
    again = await held(volumes, known(ref))
    assert again.path.read_bytes() == content
    assert again.path.stat().st_mode & 0o777 == 0o600
    assert await store.names("volumes/") == []


async def test_a_damaged_checkpoint_is_said_to_be(volumes: Volumes, store: ArtifactStore, shop: Shop) -> None:
    """Whichever part of it: nothing is made in its place, and nothing of it is left here."""
    for part in (".qcow2", "manifest.json"):
        ref = new_ref()
        await held(volumes, ref)
        await volumes.checkpoint(known(ref))
        (name,) = [name for name in await store.names(f"volumes/{ref.id}/") if name.endswith(part)]
        shop.damage(name, b"torn")
        with pytest.raises(StateDamaged):
            await held(volumes, known(ref))


async def test_a_disk_that_is_lost_is_not_made_anew(volumes: Volumes) -> None:
    """Of a volume that was in use: an empty one in its place would look like an answer."""
    with pytest.raises(StateDamaged, match="missing"):
        await held(volumes, known(new_ref()))


async def test_one_machine_at_a_time(volumes: Volumes) -> None:
    """The next one waits for the end of the one that has it; a checkpoint does not."""
    ref = new_ref()
    await volumes.hold(ref.id)
    waiting = asyncio.create_task(volumes.hold(ref.id))
    with pytest.raises(StateConflict):
        await volumes.checkpoint(ref)
    await asyncio.sleep(0)
    assert not waiting.done()
    volumes.release(ref.id)
    await waiting


async def test_removed_here_and_there(volumes: Volumes, store: ArtifactStore, tmp_path: Path) -> None:
    """Whatever is not known is collected, but not what a machine holds."""
    here, there, unknown, in_use = (new_ref() for _ in range(4))
    for ref in (here, there, unknown, in_use):
        await held(volumes, ref)
    await volumes.checkpoint(known(there))
    await volumes.hold(in_use.id)
    await volumes.collect({here.id, there.id})
    assert {path.name for path in (tmp_path / "volumes").glob("vol_*")} == {here.id, in_use.id}
    for ref in (here, there):
        for _ in range(2):
            await volumes.remove(ref.id)
    assert await store.names("volumes/") == []


async def test_what_a_dead_process_left_goes(volumes: Volumes, tmp_path: Path) -> None:
    """Half a disk has no name of its own yet."""
    left = tmp_path / "volumes" / ".half"
    left.mkdir()
    (left / "disk.qcow2").write_bytes(b"half")
    await volumes.open()
    assert not left.exists()


async def test_a_checkpoint_that_fails_leaves_the_disk(
    volumes: Volumes, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be attached as before, and nothing of it is in the store."""
    ref = new_ref()
    disk = await held(volumes, ref)

    async def fail(*_: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(store, "put", fail)
        with pytest.raises(Unavailable):
            await volumes.checkpoint(known(ref))
    assert await held(volumes, known(ref)) == disk
    assert disk.path.stat().st_mode & 0o777 == 0o600
    assert await store.names("volumes/") == []
