"""
Artifacts in a folder of this host.

    .drafts/          being written; emptied at start
    states/ layers/ volumes/   kept: mode 0444, synced before they get their name

A name appears by link or rename, after its content is on the disk: what has a name is whole, also after a power loss.
Files are encrypted, so everybody on the host may read them; nobody but root may write.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from terpd.model.errors import StateDamaged, StorageFull, Unavailable
from terpd.node.artifacts.base import ArtifactInfo, is_name

_DRAFTS = ".drafts"
FOLDERS = ("states", "layers", "volumes")
_CHUNK_BYTES = 1 << 20


class FilesStore:
    """
    An `ArtifactStore` in *directory*, which is made by `open`.

    Args:
        reserve_bytes: Of the file system's free bytes, those that artifacts must leave to others.
    """

    def __init__(self, directory: Path, *, reserve_bytes: int = 0) -> None:
        self.directory = directory
        self._reserve_bytes = reserve_bytes
        # What was checked by this process, so that only the first of many forks reads all of it.
        self._checked: dict[str, tuple[int, int, int, str]] = {}
        self._checks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Path]:
        self.path(name)
        if self.free_bytes() == 0:
            raise StorageFull(_NO_ROOM)
        path = self.directory / _DRAFTS / f"{name.replace('/', '~')}.{secrets.token_hex(4)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    async def keep(self, info: ArtifactInfo, path: Path) -> None:
        await asyncio.to_thread(self._keep, info, path)

    async def put(self, name: str, content: bytes) -> None:
        await asyncio.to_thread(self._put, name, content)

    async def read(self, name: str, *, limit: int) -> bytes | None:
        return await asyncio.to_thread(self._read, name, limit)

    async def fetch(self, info: ArtifactInfo) -> Path:
        lock = self._checks.setdefault(info.name, asyncio.Lock())
        async with lock:
            return await asyncio.to_thread(self._check, info)

    async def discard(self, name: str) -> None:
        await asyncio.to_thread(self._discard, name)

    async def names(self, prefix: str) -> Sequence[str]:
        return await asyncio.to_thread(self._names, prefix)

    def free_bytes(self) -> int:
        with faults("say how much room it has"):
            figures = os.statvfs(self.directory)
        return max(0, figures.f_bavail * figures.f_frsize - self._reserve_bytes)

    def path(self, name: str) -> Path:
        """Where an artifact is, if it is there. Raises ValueError for what is no name."""
        if not is_name(name):
            raise ValueError(f"not the name of an artifact: {name!r}")
        return self.directory / name

    # ---- in a thread -----------------------------------------------------------------------------

    def _open(self) -> None:
        with faults("be opened"):
            for folder in (self.directory, *(self.directory / name for name in (*FOLDERS, _DRAFTS))):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o711)
            for left in (self.directory / _DRAFTS).iterdir():
                left.unlink()
            sync(self.directory)

    def _keep(self, info: ArtifactInfo, path: Path) -> None:
        final = self.path(info.name)
        with faults(f"keep {info.name}"), self._parent_of(final) as parent:
            if _size(final) == info.size:  # kept before, perhaps by a process that died before the sync
                sync(final)
            else:
                # By descriptor from here on: the path may be in a folder that a monitor writes to.
                with _opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as file:
                    status = os.fstat(file)
                    if not stat.S_ISREG(status.st_mode) or status.st_size != info.size:
                        raise StateDamaged(f"{info.name}: {status.st_size} bytes were written and not {info.size}")
                    _make_ours(file)
                    os.fsync(file)
                    final.unlink(missing_ok=True)  # of another size: the disk lost some of it
                    os.link(f"/proc/self/fd/{file}", final.name, dst_dir_fd=parent, follow_symlinks=True)
            os.fsync(parent)
            sync(final.parent.parent)  # where the folder's own name is

    def _put(self, name: str, content: bytes) -> None:
        final = self.path(name)
        temporary = self.directory / _DRAFTS / f"put.{secrets.token_hex(8)}"
        with faults(f"keep {name}"), self._parent_of(final) as parent:
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    _make_ours(file.fileno())
                    os.fsync(file.fileno())
                temporary.rename(final)
            finally:
                temporary.unlink(missing_ok=True)
            os.fsync(parent)
            sync(final.parent.parent)

    def _read(self, name: str, limit: int) -> bytes | None:
        with faults(f"read {name}"):
            try:
                with self.path(name).open("rb") as file:
                    content = file.read(limit + 1)
            except FileNotFoundError:
                return None
        if len(content) > limit:
            raise StateDamaged(f"{name} is damaged: it has more than {limit} bytes")
        return content

    def _check(self, info: ArtifactInfo) -> Path:
        path = self.path(info.name)
        try:
            found = path.stat()
            if found.st_size != info.size:
                raise StateDamaged(f"{info.name} is damaged: it has {found.st_size} bytes and not {info.size}")
            mark = (found.st_ino, found.st_mtime_ns, found.st_size, info.digest)
            if self._checked.get(info.name) != mark:
                if _digest(path) != info.digest:
                    raise StateDamaged(f"{info.name} is damaged: its content is not what was saved")
                self._checked[info.name] = mark
        except FileNotFoundError as error:
            raise StateDamaged(f"{info.name} is missing") from error
        except OSError as error:
            raise StateDamaged(f"{info.name} cannot be read: {error.strerror}") from error
        return path

    def _discard(self, name: str) -> None:
        path = self.path(name)
        self._checked.pop(name, None)
        with faults(f"remove {name}"):
            path.unlink(missing_ok=True)
            if path.parent.name not in FOLDERS:
                with contextlib.suppress(OSError):  # there is more in it, or it is gone
                    path.parent.rmdir()

    def _names(self, prefix: str) -> list[str]:
        top = self.directory / prefix.partition("/")[0]
        with faults("list what it has"):
            found = [str(path.relative_to(self.directory)) for path in top.rglob("*") if path.is_file()]
        return sorted(name for name in found if name.startswith(prefix) and is_name(name))

    @contextlib.contextmanager
    def _parent_of(self, path: Path) -> Iterator[int]:
        """The folder that an artifact belongs in, made if need be, as a descriptor."""
        path.parent.mkdir(exist_ok=True, mode=0o711)
        with _opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
            yield parent


_NO_ROOM = (
    "The server's disk has no room for saved states; delete snapshots or terminate paused sandboxes, or ask the "
    "operator for a larger disk"
)


@contextlib.contextmanager
def faults(act: str) -> Iterator[None]:
    """Say in our words why the file system did not do it."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull(_NO_ROOM, context={"act": act}) from error
        why = error.strerror
        if error.errno == errno.EXDEV:
            why = "machines and artifacts must be on one file system"
        raise Unavailable(f"The artifact store cannot {act}: {why}") from error


def _make_ours(file: int) -> None:
    """Take a file away from the uid of the monitor that wrote it."""
    os.fchmod(file, 0o444)
    if os.geteuid() == 0:
        os.fchown(file, 0, 0)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _digest(path: Path) -> str:
    """Read, not mapped: a fault of the disk is an error then and no SIGBUS. 0.7 s a GB on one core."""
    hasher = blake3()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return hasher.hexdigest()


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder."""
    with _opened(path, os.O_RDONLY) as file:
        os.fsync(file)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
