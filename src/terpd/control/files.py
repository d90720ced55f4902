"""A sandbox's files: bounds and states first, then the guest."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from terpd.control.awake import Awake
from terpd.control.checks import check_path, check_writable
from terpd.control.ended import explaining
from terpd.control.exec import close
from terpd.model.errors import (
    AlreadyExists,
    FileNotFound,
    InvalidRequest,
    LimitExceeded,
    TerpError,
    TooLarge,
)
from terpd.model.guest import FileInfo, OpenFile
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, Store

_T = TypeVar("_T")

MAX_ONE_SHOT_BYTES = 16 * 1024 * 1024  # of a file inside a JSON document; a stream has no bound but the disk
MAX_BATCH = 64
CHUNK_BYTES = 64 * 1024
DEFAULT_MODE = 0o644

_DURING = "while its files were in use"
_TODO = "resume it and try again"


@dataclass(frozen=True, slots=True)
class Directory:
    entries: Sequence[FileInfo]


@dataclass(frozen=True, slots=True)
class FileToWrite:
    """`content` is None when what was sent for it could not be read; `mode` is 0 to 0o7777."""

    path: str
    content: bytes | None
    mode: int = DEFAULT_MODE


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """One row of a batch: `size` in bytes, or why not."""

    path: str
    size: int | None
    error: TerpError | None


class Files:
    """
    A sandbox that is paused and has `auto_resume` is resumed first.

    Every method raises SandboxNotFound; StateConflict unless the sandbox runs; InvalidRequest for a path that is
    not absolute, too long or holds NUL; NotPermitted for a change outside the write roots; GuestFault.
    """

    def __init__(self, store: Store, node: Node, awake: Awake) -> None:
        self._store = store
        self._node = node
        self._awake = awake

    async def read(self, tenant: TenantId, sandbox_id: SandboxId, path: str) -> bytes | Directory:
        """
        Return a file's content, or a directory's entries.

        Raises:
            FileNotFound.
            TooLarge: The file has more than 16 MiB.
        """
        path = check_path(path)
        async with self._running(tenant, sandbox_id):
            info = await self._existing(sandbox_id, path)
            if info.is_dir:
                return Directory(await self._node.list_files(sandbox_id, path))
            content = bytearray()
            chunks = self._node.read_file(sandbox_id, path, limit=MAX_ONE_SHOT_BYTES + 1)
            try:
                async for chunk in chunks:
                    content += chunk
                    if len(content) > MAX_ONE_SHOT_BYTES:
                        raise _too_large()
            finally:
                await close(chunks)
            return bytes(content)

    async def stream(self, tenant: TenantId, sandbox_id: SandboxId, path: str) -> AsyncGenerator[bytes, None]:
        """
        Return the file's chunks. Errors come with the first chunk; one that comes later ends the stream early.

        Raises:
            FileNotFound.
            InvalidRequest: It is a directory.
        """
        path = check_path(path)
        await self._awake(tenant, sandbox_id)
        return explained(self._store, tenant, sandbox_id, self._node.read_file(sandbox_id, path))

    async def open(
        self, tenant: TenantId, sandbox_id: SandboxId, path: str, *, offset: int = 0, limit: int | None = None
    ) -> OpenFile:
        """
        Open a file and say what it is; its bytes come from *offset* on, *limit* at most. As `stream` otherwise.
        """
        path = check_path(path)
        async with self._running(tenant, sandbox_id):
            opened = await self._node.open_file(sandbox_id, path, offset=offset, limit=limit)
        return OpenFile(opened.info, explained(self._store, tenant, sandbox_id, opened.chunks))

    async def write(self, tenant: TenantId, sandbox_id: SandboxId, file: FileToWrite) -> int:
        """Write a file whole or not at all, parents created. Returns its size. Raises TooLarge above 16 MiB."""
        path = _check_write(file)
        async with self._running(tenant, sandbox_id):
            return await self._write(sandbox_id, path, file)

    async def write_stream(
        self, tenant: TenantId, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int
    ) -> int:
        """As `write`, without a bound. If *chunks* raises, the file is as it was before."""
        path = check_writable(path)
        check_mode(mode)
        async with self._running(tenant, sandbox_id):
            return await self._node.write_file(sandbox_id, path, chunks, mode)

    async def write_batch(
        self, tenant: TenantId, sandbox_id: SandboxId, files: Sequence[FileToWrite]
    ) -> Sequence[WriteOutcome]:
        """Write up to 64 files, in order; one that fails does not keep the others from being written."""
        if len(files) > MAX_BATCH:
            raise TooLarge(f"files may have {MAX_BATCH} rows at most; it has: {len(files)}")
        outcomes = []
        async with self._running(tenant, sandbox_id):
            for file in files:
                try:
                    size = await self._write(sandbox_id, _check_write(file), file)
                except (InvalidRequest, LimitExceeded, FileNotFound, AlreadyExists) as error:
                    outcomes.append(WriteOutcome(file.path, None, error))
                else:
                    outcomes.append(WriteOutcome(file.path, size, None))
        return outcomes

    async def stat(self, tenant: TenantId, sandbox_id: SandboxId, path: str) -> FileInfo | None:
        path = check_path(path)
        async with self._running(tenant, sandbox_id):
            return await self._node.stat_file(sandbox_id, path)

    async def make_directory(self, tenant: TenantId, sandbox_id: SandboxId, path: str, *, parents: bool) -> None:
        """With *parents*, an existing directory is fine. Raises AlreadyExists, FileNotFound (without a parent)."""
        path = check_writable(path)
        async with self._running(tenant, sandbox_id):
            await self._node.make_directory(sandbox_id, path, parents=parents)

    async def move(self, tenant: TenantId, sandbox_id: SandboxId, source: str, destination: str) -> None:
        """Rename a file or directory, replacing a file. Raises FileNotFound, AlreadyExists."""
        source = check_writable(source, field="source")
        destination = check_writable(destination, field="destination")
        async with self._running(tenant, sandbox_id):
            await self._node.move_file(sandbox_id, source, destination)

    async def remove(self, tenant: TenantId, sandbox_id: SandboxId, path: str) -> None:
        """Remove a file or symlink. Raises FileNotFound; InvalidRequest for a directory."""
        path = check_writable(path)
        async with self._running(tenant, sandbox_id):
            await self._node.remove_file(sandbox_id, path, recursive=False)

    @contextlib.asynccontextmanager
    async def _running(self, tenant: TenantId, sandbox_id: SandboxId) -> AsyncIterator[None]:
        """See to it that it runs, and blame no guest whose sandbox ends or is paused within the block."""
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _DURING, todo=_TODO, fields={}):
            yield

    async def _existing(self, sandbox_id: SandboxId, path: str) -> FileInfo:
        info = await self._node.stat_file(sandbox_id, path)
        if info is None:
            raise FileNotFound(f"There is no such file: {path}")
        if not info.is_dir and info.size > MAX_ONE_SHOT_BYTES:
            raise _too_large()
        return info

    async def _write(self, sandbox_id: SandboxId, path: str, file: FileToWrite) -> int:
        return await self._node.write_file(sandbox_id, path, _pieces(file.content or b""), file.mode)


async def explained(
    store: Store, tenant: TenantId, sandbox_id: SandboxId, items: AsyncIterator[_T]
) -> AsyncGenerator[_T, None]:
    """Yield *items*, and blame no guest whose sandbox ends or is paused meanwhile."""
    try:
        while True:
            async with explaining(store, tenant, sandbox_id, _DURING, todo=_TODO, fields={}):
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        await close(items)


def check_mode(mode: int) -> None:
    if not 0 <= mode <= 0o7777:
        raise InvalidRequest(f"mode must be 0 to {0o7777} (0o7777), not: {mode}")


def _check_write(file: FileToWrite) -> str:
    path = check_writable(file.path)
    check_mode(file.mode)
    if file.content is None:
        raise InvalidRequest("content must be base64 in the standard alphabet")
    if len(file.content) > MAX_ONE_SHOT_BYTES:
        raise _too_large()
    return path


def _too_large() -> TooLarge:
    return TooLarge(
        f"A file in one piece may have {MAX_ONE_SHOT_BYTES} bytes at most; stream it through files/content instead",
        fields={"limit": MAX_ONE_SHOT_BYTES},
    )


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])
