"""
Artifacts in an S3-compatible bucket, with copies of what was used lately on this host.

    keep     local copy ──► upload ──► durable
    fetch    local copy, or download to .parts/ ──► checked ──► local copy

The bucket counts: local copies may go at any time, and those that were not used for an hour do when there are many.
A prefix belongs to one server, whose `collect` removes what it does not know: so it is marked, and others are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from terpd.model.errors import StateDamaged, StorageFull, Unavailable
from terpd.node.artifacts.base import ArtifactInfo, is_name
from terpd.node.artifacts.bucket import Bucket
from terpd.node.artifacts.files import FOLDERS, FilesStore, faults

log = structlog.get_logger()

_T = TypeVar("_T")

_PARTS = ".parts"
_OWNER = "owner"  # the mark: in the bucket and in the local folder
_OWNER_BYTES = 64
_IDLE_S = 3600
_STALE_S = 86400
_CALLS_AT_ONCE = 8
_TRANSFERS_AT_ONCE = 3


class S3Store:
    """
    An `ArtifactStore` in *bucket*.

    Args:
        local: Holds the local copies, and gives drafts.
        cache_bytes: Local copies may take that many; more when all of them are in use.
    """

    def __init__(self, bucket: Bucket, local: FilesStore, *, cache_bytes: int) -> None:
        self._bucket = bucket
        self._local = local
        self._cache_bytes = cache_bytes
        self._pool = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="s3")
        self._transfers = asyncio.Semaphore(_TRANSFERS_AT_ONCE)
        self._fetches: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._ours = False

    def draft(self, name: str) -> contextlib.AbstractContextManager[Path]:
        return self._local.draft(name)

    async def open(self) -> None:
        """
        A bucket that is away is none of a start's business: what runs must be looked after. It is logged.

        Raises:
            Unavailable: The prefix is another server's.
        """
        await self._local.open()
        await asyncio.to_thread(self._open_parts)
        try:
            owner = await self._call(self._find_owner)
            await self._call(self._bucket.abort_stale)
        except Unavailable as error:
            log.warning("object_store_away", why=error.detail, bucket=self._bucket.url, **error.context)
            return
        self._check_owner(owner)

    async def keep(self, info: ArtifactInfo, path: Path) -> None:
        await self._ensure_ours()
        await self._local.keep(info, path)
        copy = self._local.path(info.name)
        if not await self._call(self._bucket.has, info):
            await self._transfer(self._bucket.upload, info, copy)
        await asyncio.to_thread(self._used, copy)

    async def put(self, name: str, content: bytes) -> None:
        await self._ensure_ours()
        await self._call(self._bucket.put, name, content)
        await self._local.put(name, content)

    async def read(self, name: str, *, limit: int) -> bytes | None:
        if (copy := await self._local.read(name, limit=limit)) is not None:
            return copy
        content = await self._call(lambda: self._bucket.get(name, limit=limit))
        if content is not None:
            await self._local.put(name, content)
        return content

    async def fetch(self, info: ArtifactInfo) -> Path:
        lock = self._fetches.setdefault(info.name, asyncio.Lock())
        async with lock:
            try:
                path = await self._local.fetch(info)
            except StateDamaged:  # only of the copy: it is not there, or a power loss cut it
                await self._local.discard(info.name)
                path = await self._download(info)
            await asyncio.to_thread(self._used, path)
            return path

    async def discard(self, name: str) -> None:
        self._local.path(name)
        await self._ensure_ours()
        await self._call(self._bucket.delete, name)
        await self._local.discard(name)
        await asyncio.to_thread(self._part(name).unlink, missing_ok=True)

    async def names(self, prefix: str) -> Sequence[str]:
        await self._ensure_ours()
        kept = await self._call(self._bucket.names, prefix)
        return sorted({name for name in kept if is_name(name)} | {*await self._local.names(prefix)})

    def free_bytes(self) -> int:
        return self._local.free_bytes()

    # ---- local copies ----------------------------------------------------------------------------

    async def _download(self, info: ArtifactInfo) -> Path:
        part = self._part(info.name)
        resumed = part.exists()
        if self._local.free_bytes() < info.size:
            raise StorageFull(f"The server's disk has no room for {info.size} bytes to download; free some space")
        try:
            await self._transfer(self._bucket.download, info, part)
            await self._local.keep(info, part)
            path = await self._local.fetch(info)
        except StateDamaged:
            await self._local.discard(info.name)
            await asyncio.to_thread(part.unlink, missing_ok=True)
            if not resumed:
                raise
            return await self._download(info)  # what lay here from before may have been the wrong half
        except StorageFull:
            await asyncio.to_thread(part.unlink, missing_ok=True)
            raise
        await asyncio.to_thread(part.unlink, missing_ok=True)
        return path

    def _used(self, path: Path) -> None:
        """Note the use of a copy as its time of access, and make room: see the head of this module."""
        with contextlib.suppress(FileNotFoundError):  # discarded meanwhile
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        copies = []
        for folder in FOLDERS:
            for each in (self._local.directory / folder).rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if each.is_file():
                        copies.append((each.stat(), each))
        excess = sum(status.st_size for status, _ in copies) - self._cache_bytes
        for status, each in sorted(copies, key=lambda copy: copy[0].st_atime_ns):
            if excess <= 0 or status.st_atime > time.time() - _IDLE_S:
                break
            each.unlink(missing_ok=True)
            excess -= status.st_size

    def _open_parts(self) -> None:
        with faults("be opened"):
            parts = self._local.directory / _PARTS
            parts.mkdir(exist_ok=True, mode=0o700)
            for part in parts.iterdir():
                if part.stat().st_mtime < time.time() - _STALE_S:
                    part.unlink()

    def _part(self, name: str) -> Path:
        return self._local.directory / _PARTS / name.replace("/", "~")

    # ---- whose prefix it is ----------------------------------------------------------------------

    async def _ensure_ours(self) -> None:
        if not self._ours:
            self._check_owner(await self._call(self._find_owner))

    def _check_owner(self, owner: str) -> None:
        if owner != self._name():
            raise Unavailable(
                f"{self._bucket.url} is used by another server; set s3_prefix to one of its own, or, if that server is "
                f"gone for good and its saved states may go too, remove the object {self._bucket.url}{_OWNER}"
            )
        self._ours = True

    def _find_owner(self) -> str:
        """Whom the mark in the bucket names; where there is none, it is set to us."""
        owner = self._bucket.get(_OWNER, limit=_OWNER_BYTES)
        if owner is None:
            self._bucket.put(_OWNER, self._name().encode())
            owner = self._bucket.get(_OWNER, limit=_OWNER_BYTES) or b""  # of two at once, the later has it
        return owner.decode(errors="replace")

    def _name(self) -> str:
        """Of this server's folder, made up once."""
        path = self._local.directory / _OWNER
        with faults("be opened"):
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(secrets.token_hex(16))
                file.flush()
                os.fsync(file.fileno())
            return path.read_text()

    # ---- threads ---------------------------------------------------------------------------------

    async def _call(self, function: Callable[..., _T], *args: object) -> _T:
        """In threads of its own: a bucket that hangs must not hold up the rest of the server."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def _transfer(
        self, function: Callable[[ArtifactInfo, Path, threading.Event], None], info: ArtifactInfo, path: Path
    ) -> None:
        stop = threading.Event()
        async with self._transfers:
            try:
                await self._call(function, info, path, stop)
            finally:
                stop.set()
