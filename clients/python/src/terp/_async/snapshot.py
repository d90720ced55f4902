"""Named snapshots: find them, delete them. `AsyncSandbox.snapshot` takes one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from terp._async.client import AsyncTerp
from terp._async.default import default_client
from terp.models import SnapshotInfo
from terp.protocol import replies, requests


class AsyncSnapshot:
    """
    A running sandbox as it was at one moment: memory, processes and files.

        async with await AsyncSandbox.create() as sbx:
            await sbx.exec("pip install requests")
            ready = await sbx.snapshot("with requests")
        sandbox = await AsyncSandbox.create(snapshot=ready)

    Any number of sandboxes start from it. It outlives its source, until `delete`.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: AsyncTerp, info: SnapshotInfo) -> None:
        self._client = client
        self._info = info

    @classmethod
    async def get(cls, snapshot_id: str, *, client: AsyncTerp | None = None) -> AsyncSnapshot:
        """
        Return an existing snapshot, whatever its status.

        Raises:
            SnapshotNotFound: It never existed, was deleted, or is another tenant's.
        """
        client = client or await default_client()
        return cls(client, replies.read_snapshot(await client.call(requests.get_snapshot(snapshot_id))))

    @classmethod
    async def list(cls, *, client: AsyncTerp | None = None) -> AsyncIterator[AsyncSnapshot]:
        """Yield the snapshots of this key's tenant, newest first."""
        client = client or await default_client()
        for info in replies.read_snapshots(await client.call(requests.list_snapshots())):
            yield cls(client, info)

    async def delete(self) -> None:
        """
        Destroy its key, and with that all copies of it. Doing it again does nothing.

        Sandboxes that were created from it run on, and can be paused and resumed as before.
        """
        await self._client.call(requests.delete_snapshot(self.id))

    # ---- what the server said last ----

    @property
    def info(self) -> SnapshotInfo:
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def name(self) -> str | None:
        return self._info.name

    @property
    def status(self) -> str:
        return self._info.status

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"
