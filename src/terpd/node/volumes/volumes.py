"""
The volumes of this host: their files, and which of them a machine holds.

    volumes/<volume id>/disk.qcow2      appears by rename, whole
                        paused.json     how it was when the machine was saved that has it mounted
            empty.qcow2                 what new ones are copied from

One machine at a time holds a volume, from before its file is looked at until the machine's monitor is gone; QEMU locks
the file besides. A volume that was checkpointed has no file here: it is fetched when a machine wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path

import structlog
from blake3 import blake3

from terpd.model.errors import StateConflict, StateDamaged, StorageFull, TerpError, Unavailable
from terpd.model.ids import StateId, VolumeId, parse_volume_id
from terpd.model.volume import VolumeRef
from terpd.node.artifacts.base import ArtifactInfo, ArtifactStore
from terpd.node.finished import finished
from terpd.node.snapshot.sealer import SEALING_FAULTS, Sealer
from terpd.node.vmm.base import Layer
from terpd.node.volumes import checkpoint
from terpd.node.volumes.disk import format_disk, make_empty, secret_of

log = structlog.get_logger()

_DISK, _EMPTY, _PAUSED = "disk.qcow2", "empty.qcow2", "paused.json"
_HOLD_S = 40.0  # a machine is detached in 5 s, and ends in 30 at most
_CHUNK_BYTES = 1 << 20
_COPY_TIMEOUT_S = 3600.0


class Volumes:
    """
    Args:
        directory: On the file system of *artifacts*, which takes disks from there; made by `open`.
    """

    def __init__(self, directory: Path, sealer: Sealer, artifacts: ArtifactStore) -> None:
        self._directory = directory
        self._sealer = sealer
        self._artifacts = artifacts
        self._held: dict[VolumeId, asyncio.Event] = {}
        self._making_empty = asyncio.Lock()

    async def open(self) -> None:
        """Make what is missing, and remove what a dead process left half done."""

        def sweep() -> None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in self._directory.glob(".*"):
                shutil.rmtree(left)

        await asyncio.to_thread(sweep)

    # ---- who holds what --------------------------------------------------------------------------

    async def hold(self, volume_id: VolumeId) -> None:
        """
        Wait until no machine holds the volume and hold it.

        Raises:
            Unavailable: The machine that had it has not ended yet.
        """
        try:
            async with asyncio.timeout(_HOLD_S):
                while (released := self._held.get(volume_id)) is not None:
                    await released.wait()
        except TimeoutError:
            raise Unavailable(f"Volume {volume_id} is still being detached; try again") from None
        self.adopt(volume_id)

    def adopt(self, volume_id: VolumeId) -> None:
        """Note that a machine holds it which a daemon before this one started."""
        self._held[volume_id] = asyncio.Event()

    def release(self, volume_id: VolumeId) -> None:
        """The machine is gone. Idempotent."""
        if (released := self._held.pop(volume_id, None)) is not None:
            released.set()

    # ---- between a pause and its resume ----------------------------------------------------------

    async def note_pause(self, volume_id: VolumeId, state_id: StateId) -> None:
        """Note how the disk is that a saved machine has mounted. Without the note a resume goes on unchecked."""
        disk = self._disk(volume_id)

        def write() -> None:
            disk.with_name(_PAUSED).write_text(json.dumps({"state": state_id, "mark": _mark(disk)}))

        try:
            await finished(asyncio.to_thread(write))
        except OSError as error:
            log.warning("a volume's pause was not noted", volume=volume_id, why=str(error))

    async def check_pause(self, volume_id: VolumeId, state_id: StateId) -> None:
        """
        See that nobody wrote to the disk since that state was saved: its memory holds what was on the disk then, and
        going on would destroy the file system.

        Raises:
            StateDamaged: A resume that failed had gone so far that programs ran.
        """
        disk = self._disk(volume_id)

        def changed() -> bool:
            try:
                note = json.loads(disk.with_name(_PAUSED).read_text())
            except (OSError, ValueError):
                return False
            return bool(note["state"] == state_id and note["mark"] != _mark(disk))

        if await asyncio.to_thread(changed):
            raise StateDamaged(
                f"The volume {volume_id} was written to by a resume that failed, and the saved sandbox does not fit it"
                " any more; terminate the sandbox, and attach the volume to a new one"
            )

    # ---- files -----------------------------------------------------------------------------------

    async def prepare(self, ref: VolumeRef) -> Layer:
        """
        Return the disk of a volume that the caller holds: the one here, fetched from its checkpoint, or a new one.

        Raises:
            StorageFull: There is no room for it.
            StateDamaged: It, or its checkpoint, is missing or is not what was saved.
            Unavailable: The artifact store is away, or a disk cannot be made.
        """
        disk = Layer(self._disk(ref.id), secret_of(ref.key))
        if await asyncio.to_thread(disk.path.exists):
            await asyncio.to_thread(disk.path.chmod, 0o600)  # a checkpoint that broke off made it read-only
            return disk
        stored = await checkpoint.read(self._artifacts, ref)
        if stored is None and not ref.new:
            raise StateDamaged(f"The disk of volume {ref.id} is missing on this server; delete the volume")
        if self._artifacts.free_bytes() <= (0 if stored is None else stored.size):
            raise StorageFull("The server's disk has no room for the volume; delete volumes, snapshots or sandboxes")
        try:
            with tempfile.TemporaryDirectory(prefix=".", dir=self._directory) as draft:
                made = Path(draft) / _DISK
                if stored is None:
                    await self._make(made, ref, disk.secret)
                else:
                    source = await self._artifacts.fetch(stored)
                    await finished(asyncio.to_thread(_copy, source, made))
                await finished(asyncio.to_thread(_publish, made, disk.path))
        except (OSError, subprocess.SubprocessError, *SEALING_FAULTS) as error:
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull("The server's disk has no room for the volume") from error
            why = getattr(error, "stderr", None)
            context = {"cause": str(error), "said": "" if not why else str(why[-500:])}
            raise Unavailable("The volume's disk cannot be made; try again", context=context) from error
        if stored is not None:
            await checkpoint.discard(self._artifacts, ref.id)
        return disk

    async def checkpoint(self, ref: VolumeRef) -> None:
        """As `Node.checkpoint_volume`."""
        if ref.id in self._held:
            raise StateConflict(f"Volume {ref.id} is held by a machine")
        self.adopt(ref.id)
        try:
            path = self._disk(ref.id)
            if not await asyncio.to_thread(path.exists):
                return  # it is in the store already, or was never made
            name = checkpoint.new_disk_name(ref.id)
            info = ArtifactInfo(name, *await finished(asyncio.to_thread(_measure, path)))
            try:
                await self._artifacts.keep(info, path)
                await checkpoint.write(self._artifacts, ref, info)
            except BaseException:
                with contextlib.suppress(TerpError):  # it may be this very file, which will be written to again
                    await self._artifacts.discard(name)
                raise
            await finished(asyncio.to_thread(shutil.rmtree, path.parent))
            await checkpoint.discard(self._artifacts, ref.id, keep=info)
        except OSError as error:
            raise Unavailable("The volume cannot be stored; try again", context={"cause": str(error)}) from error
        finally:
            self.release(ref.id)

    async def remove(self, volume_id: VolumeId) -> None:
        """As `Node.remove_volume`."""
        await self.hold(volume_id)
        try:
            directory = self._disk(volume_id).parent
            await finished(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
            if await asyncio.to_thread(directory.exists):
                raise Unavailable(f"The files of volume {volume_id} cannot be removed; try again")
            await checkpoint.discard(self._artifacts, volume_id)
        finally:
            self.release(volume_id)

    async def collect(self, keep: Collection[VolumeId]) -> None:
        """As `Node.collect_volumes`."""
        here = await asyncio.to_thread(lambda: [each.name for each in self._directory.iterdir()])
        stored = [name.split("/")[1] for name in await self._artifacts.names("volumes/")]
        for found in {*map(parse_volume_id, here), *map(parse_volume_id, stored)} - {None, *keep}:
            if found is not None and found not in self._held:
                log.info("removing a volume that nobody knows", volume=found)
                await self.remove(found)

    def _disk(self, volume_id: VolumeId) -> Path:
        if parse_volume_id(volume_id) is None:
            raise ValueError(f"no volume's id: {volume_id!r}")
        return self._directory / volume_id / _DISK

    async def _make(self, path: Path, ref: VolumeRef, secret: bytes) -> None:
        empty = self._directory / _EMPTY
        async with self._making_empty:
            if not await asyncio.to_thread(empty.exists):
                with tempfile.TemporaryDirectory(prefix=".", dir=self._directory) as draft:
                    made = Path(draft) / _EMPTY
                    await finished(asyncio.to_thread(make_empty, made))
                    made.rename(empty)
        await self._sealer.create_layer(empty, path, secret=secret, uid=os.geteuid())
        await finished(asyncio.to_thread(format_disk, path, size_mib=ref.size_mib, secret=secret))


def _mark(path: Path) -> list[int]:
    """Changes with every write."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _copy(source: Path, target: Path) -> None:
    command = ["cp", "--reflink=auto", "--sparse=always"]
    subprocess.run([*command, source, target], check=True, capture_output=True, timeout=_COPY_TIMEOUT_S)


def _publish(made: Path, final: Path) -> None:
    """Give a disk its name, durably."""
    made.chmod(0o600)
    _sync(made)
    final.parent.mkdir(mode=0o700, exist_ok=True)
    made.rename(final)
    _sync(final.parent)
    _sync(final.parent.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _measure(path: Path) -> tuple[int, str]:
    """Size and digest of a file. Read, not mapped: a fault of the disk is an error then and no SIGBUS."""
    hasher, size = blake3(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
    return size, hasher.hexdigest()
