"""Volumes: disks that outlive sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import EllipsisType

from terp._async.client import AsyncTerp
from terp._async.default import default_client
from terp.errors import VolumeNotFound
from terp.models import VolumeInfo
from terp.protocol import account


class AsyncVolume:
    """
    A disk that a sandbox has at /persist, and that stays when the sandbox ends.

        volume = await AsyncVolume.create("models", size_gb=20)
        async with await AsyncSandbox.create(volume=volume) as sbx:
            await sbx.files.write("/persist/notes.txt", "still here tomorrow")

    One sandbox at a time holds it, from its create to its end, also while it is paused. It is encrypted with a key of
    its own, which `delete` destroys.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: AsyncTerp, info: VolumeInfo) -> None:
        self._client = client
        self._info = info

    @classmethod
    async def create(
        cls,
        name: str,
        size_gb: float = 10,
        *,
        max_lifetime_days: int | None = None,
        max_lifetime_hours: int | None = None,
        region: str | None = None,
        client: AsyncTerp | None = None,
    ) -> AsyncVolume:
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
        client = client or await default_client()
        request = account.create_volume(
            name=name,
            size_gb=size_gb,
            region=region,
            max_lifetime_days=max_lifetime_days,
            max_lifetime_hours=max_lifetime_hours,
        )
        return cls(client, account.read_volume(await client.call(request)))

    @classmethod
    async def get(cls, id_or_name: str, *, client: AsyncTerp | None = None) -> AsyncVolume:
        """
        Return an existing volume.

        Raises:
            VolumeNotFound: You have none of that id or name.
        """
        client = client or await default_client()
        if id_or_name.startswith("vol_"):
            return cls(client, account.read_volume(await client.call(account.get_volume(id_or_name))))
        for info in account.read_volumes(await client.call(account.list_volumes())):
            if info.name == id_or_name:
                return cls(client, info)
        raise VolumeNotFound(f"There is no volume of that name: {id_or_name}")

    @classmethod
    async def list(cls, *, client: AsyncTerp | None = None) -> AsyncIterator[AsyncVolume]:
        """Yield the volumes of this key's tenant."""
        client = client or await default_client()
        for info in account.read_volumes(await client.call(account.list_volumes())):
            yield cls(client, info)

    async def refresh(self) -> None:
        """Ask the server how the volume is now."""
        self._info = account.read_volume(await self._client.call(account.get_volume(self.id)))

    async def update(
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
        self._info = account.read_volume(await self._client.call(account.update_volume(self.id, lifetime)))

    async def move(self, region: str) -> None:
        """
        Move it to another region.

        Raises:
            VolumeInUse: A sandbox holds it.
            InvalidRequest: There is no such region.
        """
        self._info = account.read_volume(await self._client.call(account.move_volume(self.id, region)))

    async def delete(self) -> None:
        """
        Destroy its key, and with that all it holds.

        Raises:
            VolumeInUse: A sandbox holds it.
        """
        await self._client.call(account.delete_volume(self.id))

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
