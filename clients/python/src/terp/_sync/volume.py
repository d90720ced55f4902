# Generated from src/terp/_async/volume.py by tools/sync.py: change that one.
"""Volumes: disks that outlive sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType

from terp._sync.client import Terp
from terp._sync.default import default_client
from terp.errors import VolumeNotFound
from terp.models import VolumeInfo
from terp.protocol import account


class Volume:
    """
    A disk that a sandbox has at /persist, and that stays when the sandbox ends.

        volume = Volume.create("models", size_gb=20)
        with Sandbox.create(volume=volume) as sbx:
            sbx.files.write("/persist/notes.txt", "still here tomorrow")

    One sandbox at a time holds it, from its create to its end, also while it is paused. It is encrypted with a key of
    its own, which `delete` destroys.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: Terp, info: VolumeInfo) -> None:
        self._client = client
        self._info = info

    @classmethod
    def create(
        cls,
        name: str,
        size_gb: float = 10,
        *,
        max_lifetime_days: int | None = None,
        max_lifetime_hours: int | None = None,
        region: str | None = None,
        client: Terp | None = None,
    ) -> Volume:
        """
        Make a volume.

        Args:
            name: Yours; unique among your volumes.
            size_gb: In GiB, at least 0.25. A ceiling: what is not written takes no room.
            max_lifetime_days, max_lifetime_hours: When it is deleted by itself, counted from now: 1 to 3650 days or 1
                to 24 hours, not both.

        Raises:
            AlreadyExists: You have one of that name.
            InvalidRequest: A value is out of bounds.
        """
        client = client or default_client()
        request = account.create_volume(
            name=name,
            size_gb=size_gb,
            region=region,
            max_lifetime_days=max_lifetime_days,
            max_lifetime_hours=max_lifetime_hours,
        )
        return cls(client, account.read_volume(client.call(request)))

    @classmethod
    def get(cls, id_or_name: str, *, client: Terp | None = None) -> Volume:
        """
        Return an existing volume.

        Raises:
            VolumeNotFound: You have none of that id or name.
        """
        client = client or default_client()
        if id_or_name.startswith("vol_"):
            return cls(client, account.read_volume(client.call(account.get_volume(id_or_name))))
        for info in account.read_volumes(client.call(account.list_volumes())):
            if info.name == id_or_name:
                return cls(client, info)
        raise VolumeNotFound(f"There is no volume of that name: {id_or_name}")

    @classmethod
    def list(cls, *, client: Terp | None = None) -> Iterator[Volume]:
        """Yield the volumes of this key's tenant."""
        client = client or default_client()
        for info in account.read_volumes(client.call(account.list_volumes())):
            yield cls(client, info)

    def refresh(self) -> None:
        """Ask the server how the volume is now."""
        self._info = account.read_volume(self._client.call(account.get_volume(self.id)))

    def update(
        self,
        *,
        max_lifetime_days: int | EllipsisType | None = ...,
        max_lifetime_hours: int | EllipsisType | None = ...,
    ) -> None:
        """
        Change when it is deleted by itself. Give one of the two; it takes the place of what was set.

        Args:
            max_lifetime_days, max_lifetime_hours: Counted from its creation. None: it stays until `delete`.
        """
        given = {"max_lifetime_days": max_lifetime_days, "max_lifetime_hours": max_lifetime_hours}
        lifetime = {key: value for key, value in given.items() if not isinstance(value, EllipsisType)}
        self._info = account.read_volume(self._client.call(account.update_volume(self.id, lifetime)))

    def move(self, region: str) -> None:
        """
        Move it to another region.

        Raises:
            VolumeInUse: A sandbox holds it.
            InvalidRequest: There is no such region.
        """
        self._info = account.read_volume(self._client.call(account.move_volume(self.id, region)))

    def delete(self) -> None:
        """
        Destroy its key, and with that all it holds.

        Raises:
            VolumeInUse: A sandbox holds it.
        """
        self._client.call(account.delete_volume(self.id))

    # ---- what the server said last ----

    @property
    def info(self) -> VolumeInfo:
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def size_mb(self) -> int:
        return self._info.size_mb

    @property
    def status(self) -> str:
        return self._info.status

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.name!r} {self.status}>"
