"""Whole trees of a sandbox's files: as tar streams, and what changes in them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from terpd.control.awake import Awake
from terpd.control.checks import check_path, check_writable_directory
from terpd.control.ended import explaining
from terpd.control.files import explained
from terpd.model.guest import Extracted, FileEvent
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, Store


class Trees:
    """
    A sandbox that is paused and has `auto_resume` is resumed first.

    Every method raises SandboxNotFound; StateConflict unless the sandbox runs; InvalidRequest for a path that is
    not absolute, too long or holds NUL; GuestFault. What an iterator raises at its first item kept it from beginning.
    """

    def __init__(self, store: Store, node: Node, awake: Awake) -> None:
        self._store = store
        self._node = node
        self._awake = awake

    async def read(self, tenant: TenantId, sandbox_id: SandboxId, path: str) -> AsyncGenerator[bytes, None]:
        """
        Return a directory, or a file, as a tar stream.

        Raises:
            FileNotFound.
            InvalidRequest: It is neither.
            Unavailable: The sandbox was saved meanwhile, and what was read so far is of no use.
        """
        path = check_path(path)
        await self._awake(tenant, sandbox_id)
        return explained(self._store, tenant, sandbox_id, self._node.read_archive(sandbox_id, path))

    async def write(
        self, tenant: TenantId, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes]
    ) -> Extracted:
        """
        Make what a tar stream holds below a directory, which is made where it is missing. Not atomic.

        Raises:
            NotPermitted: Outside the write roots.
            InvalidRequest: It is no tar stream, ends early, or a name in it leads out of the directory.
            LimitExceeded: The sandbox's disk is full.
        """
        path = check_writable_directory(path)
        await self._awake(tenant, sandbox_id)
        during, todo = "while an archive was extracted, a part of which is there", "resume it and try again"
        async with explaining(self._store, tenant, sandbox_id, during, todo=todo, fields={}):
            return await self._node.write_archive(sandbox_id, path, chunks)

    async def watch(
        self, tenant: TenantId, sandbox_id: SandboxId, path: str, *, recursive: bool
    ) -> AsyncGenerator[FileEvent, None]:
        """
        Return what changes below a directory or to a file, READY first; it ends when that is gone.

        Raises:
            FileNotFound.
            LimitExceeded: There are more than 8192 directories.
        """
        path = check_path(path)
        await self._awake(tenant, sandbox_id)
        events = self._node.watch_files(sandbox_id, path, recursive=recursive)
        return explained(self._store, tenant, sandbox_id, events)
