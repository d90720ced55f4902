# Generated from src/terp/_async/snapshot.py by tools/sync.py: change that one.
"""Named snapshots: find them, delete them. `Sandbox.snapshot` takes one."""

from __future__ import annotations

from collections.abc import Iterator

from terp._sync.client import Terp
from terp._sync.default import default_client
from terp.models import SnapshotInfo
from terp.protocol import replies, requests


class Snapshot:
    """
    A running sandbox as it was at one moment: memory, processes and files.

        with Sandbox.create() as sbx:
            sbx.exec("pip install requests")
            ready = sbx.snapshot("with requests")
        sandbox = Sandbox.create(snapshot=ready)

    Any number of sandboxes start from it. It outlives its source, until `delete`.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: Terp, info: SnapshotInfo) -> None:
        self._client = client
        self._info = info

    @classmethod
    def get(cls, snapshot_id: str, *, client: Terp | None = None) -> Snapshot:
        """
        Return an existing snapshot, whatever its status.

        Raises:
            SnapshotNotFound: It never existed, was deleted, or is another tenant's.
        """
        client = client or default_client()
        return cls(client, replies.read_snapshot(client.call(requests.get_snapshot(snapshot_id))))

    @classmethod
    def list(cls, *, client: Terp | None = None) -> Iterator[Snapshot]:
        """Yield the snapshots of this key's tenant, newest first."""
        client = client or default_client()
        for info in replies.read_snapshots(client.call(requests.list_snapshots())):
            yield cls(client, info)

    def delete(self) -> None:
        """
        Destroy its key, and with that all copies of it. Doing it again does nothing.

        Sandboxes that were created from it run on, and can be paused and resumed as before.
        """
        self._client.call(requests.delete_snapshot(self.id))

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
