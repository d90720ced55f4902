"""
Volumes: make, look up, move, delete, and end those whose lifetime is over.

    AVAILABLE ◄──► ATTACHED            in the transactions of its sandbox
        │
        ├──► MOVING ──► STORED ──► ATTACHED
        └──► DELETING ──► forgotten    its key is destroyed first; then files, checkpoint and record go

Dying in MOVING is undone by the next start, and DELETING is finished by it or by the next sweep: both acts of the node
may be repeated. A volume that expires while a sandbox holds it goes with the first sweep after that.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from terpd.control.checks import check_lifetime_of_volume, check_volume_name
from terpd.control.clock import Clock
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.undo import undo
from terpd.model.errors import InvalidRequest, StateConflict, StateMismatch, TerpError, VolumeNotFound
from terpd.model.ids import TenantId, VolumeId, new_volume_id, parse_volume_id
from terpd.model.ports import Node, Store
from terpd.model.volume import (
    DEFAULT_SIZE_MIB,
    FOREVER,
    MAX_SIZE_MIB,
    MIN_SIZE_MIB,
    Lifetime,
    Volume,
    VolumeRef,
    VolumeStatus,
    why_not_free,
)
from terpd.model.webhook import Event, EventType
from terpd.sealing.keyring import KeyRing

SWEEP_S = 60.0
COLLECT_S = 20.0  # of a start, for what only saves room

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """What a caller asks for, before it is checked."""

    name: str
    size_gb: float = DEFAULT_SIZE_MIB / 1024
    region: str | None = None
    lifetime: Lifetime = FOREVER


class Volumes:
    def __init__(
        self, store: Store, node: Node, policy: Policy, keys: KeyRing, clock: Clock, shielded: Shielded
    ) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._keys = keys
        self._clock = clock
        self._shielded = shielded
        self._never = asyncio.Event()
        self._moving: set[VolumeId] = set()
        self._finishing: set[VolumeId] = set()

    async def create(self, tenant: TenantId, request: VolumeRequest) -> Volume:
        """
        Raises:
            InvalidRequest: Name, size or lifetime are out of bounds, or there is no such region.
            AlreadyExists: The tenant has one of that name.
            PlanLimit: The tenant has all the volumes that it may have.
        """
        self._check_region(request.region)
        if not MIN_SIZE_MIB <= request.size_gb * 1024 <= MAX_SIZE_MIB:
            raise InvalidRequest(
                f"size_gb must be {MIN_SIZE_MIB / 1024:g} to {MAX_SIZE_MIB // 1024}, not: {request.size_gb:g}"
            )
        volume = self.new(tenant, request.name, round(request.size_gb * 1024), request.lifetime)
        await self.add(volume)
        return volume

    async def list(self, tenant: TenantId) -> Sequence[Volume]:
        return await self._store.list_volumes(tenant)

    async def get(self, tenant: TenantId, volume_id: VolumeId) -> Volume:
        return await self._store.get_volume(tenant, volume_id)

    async def set_lifetime(self, tenant: TenantId, volume_id: VolumeId, lifetime: Lifetime) -> Volume:
        """
        Its end is counted from its creation, and may have passed already.

        Raises:
            InvalidRequest: The lifetime is out of bounds.
            VolumeNotFound.
        """
        check_lifetime_of_volume(lifetime)
        volume = await self._store.get_volume(tenant, volume_id)
        end = lifetime.end(volume.created_at)
        return await self._store.set_volume_lifetime(
            tenant, volume_id, days=lifetime.days, hours=lifetime.hours, expires_at=end
        )

    async def move(self, tenant: TenantId, volume_id: VolumeId, region: str) -> Volume:
        """
        Bring it to the artifact store, from where the next sandbox that names it fetches it.

        If the caller goes away, it is finished all the same.

        Raises:
            InvalidRequest: There is no such region.
            VolumeNotFound.
            VolumeInUse: A sandbox holds it.
            StateConflict: It is being moved already.
            StateMismatch: Its key cannot be unwrapped.
            StorageFull, Unavailable: It could not be stored; it is where it was.
        """
        self._check_region(region)
        volume = await self._store.get_volume(tenant, volume_id)
        return await self._shielded.run(self._move(volume, region))

    async def delete(self, tenant: TenantId, volume_id: VolumeId) -> None:
        """
        Destroy its key, and its files soon after. Idempotent: of one that is not there, nothing is deleted.

        Raises:
            VolumeInUse: A sandbox holds it.
            StateConflict: It is being moved.
        """
        try:
            volume = await self._store.get_volume(tenant, volume_id)
        except VolumeNotFound:
            return
        if await self.end(volume) is None:
            raise why_not_free(await self._store.get_volume(tenant, volume_id))

    # ---- for sandboxes that are created with one -------------------------------------------------

    async def find(self, tenant: TenantId, name_or_id: str) -> Volume | None:
        """
        The volume that a create names; None when it is to be made with that name.

        Raises:
            InvalidRequest: It is no name.
            VolumeNotFound: There is no volume of that id, or its lifetime is over.
        """
        try:
            volume = await self._store.get_volume(tenant, name_or_id)
        except VolumeNotFound:
            if parse_volume_id(name_or_id) is not None:
                raise
            check_volume_name(name_or_id)
            return None
        if volume.attached_to is None and self._is_over(volume):
            raise VolumeNotFound(f"The lifetime of volume {volume.name} is over, and it is being deleted")
        return volume

    def new(
        self, tenant: TenantId, name: str, size_mib: int = DEFAULT_SIZE_MIB, lifetime: Lifetime = FOREVER
    ) -> Volume:
        """One that is recorded nowhere yet. Raises InvalidRequest."""
        check_volume_name(name)
        check_lifetime_of_volume(lifetime)
        volume_id = new_volume_id()
        key = self._keys.new_data_key(volume_id)
        now = self._clock.now()
        return Volume(
            id=volume_id,
            tenant=tenant,
            name=name,
            size_mib=size_mib,
            status=VolumeStatus.AVAILABLE,
            region=self._policy.region,
            node_id=None,
            created_at=now,
            lifetime_days=lifetime.days,
            lifetime_hours=lifetime.hours,
            expires_at=lifetime.end(now),
            key_id=key.id,
            sealed_key=key.sealed,
        )

    async def add(self, volume: Volume) -> None:
        """Record a new one. Raises AlreadyExists, PlanLimit."""
        await self._store.add_volume(volume, max_volumes=self._policy.max_volumes)

    def ref(self, volume: Volume) -> VolumeRef:
        """Raises StateMismatch: its key is destroyed, or cannot be unwrapped."""
        if volume.sealed_key is None:
            raise StateMismatch(f"Volume {volume.id} has no data key any more")
        key = self._keys.unwrap(volume.sealed_key, volume.id)
        return VolumeRef(volume.id, volume.size_mib, key, new=volume.node_id is None)

    async def ref_of(self, tenant: TenantId, volume_id: VolumeId | None) -> VolumeRef | None:
        """The volume that a sandbox holds. Raises StateMismatch, VolumeNotFound."""
        return None if volume_id is None else self.ref(await self._store.get_volume(tenant, volume_id))

    # ---- in the background -----------------------------------------------------------------------

    async def at_start(self) -> None:
        """
        Undo what the server before left, and remove files that no record knows. Before any request is served.

        Raises:
            TerpError: Records cannot be read.
        """
        found = await self._store.volumes_on_node(self._node.node_id)
        for volume in found:
            if volume.status is VolumeStatus.MOVING:
                await self._stay(volume)
        keep = {volume.id for volume in found if volume.status is not VolumeStatus.DELETING}
        try:
            async with asyncio.timeout(COLLECT_S):
                await self._node.collect_volumes(keep)
        except (TerpError, TimeoutError) as error:  # the artifact store is away; the next start tries again
            _log.warning("volumes_not_collected", error=str(error))

    async def run(self) -> None:
        """Delete those whose lifetime is over, and finish deletions, until cancelled."""
        while True:
            try:
                await self.sweep()
            except TerpError as error:
                _log.warning("volume_sweep_failed", error=error.code, context=error.context)
            await self._clock.wait(self._never, SWEEP_S)

    async def sweep(self) -> None:
        """Raises TerpError: records cannot be read."""
        for volume in await self._store.volumes_on_node(self._node.node_id):
            if volume.status is VolumeStatus.DELETING:
                self._finish_later(volume.id)  # which may take long: others' ends do not wait for it
            elif volume.status is VolumeStatus.MOVING and volume.id not in self._moving:
                await self._stay(volume)  # its move could not be recorded; its disk is found where it is
            elif volume.attached_to is None and self._is_over(volume):
                event = self._event(EventType.VOLUME_EXPIRED, volume)
                if await self.end(volume, event, expired_by=self._clock.now()) is not None:
                    _log.info("volume_expired", volume=volume.id, tenant=volume.tenant)

    # ---- inside ----------------------------------------------------------------------------------

    async def _move(self, volume: Volume, region: str) -> Volume:
        if volume.id in self._moving:
            raise why_not_free(replace(volume, status=VolumeStatus.MOVING))
        self._moving.add(volume.id)
        try:
            return await self._moved(volume, region)
        finally:
            self._moving.discard(volume.id)

    async def _moved(self, volume: Volume, region: str) -> Volume:
        now = self._clock.now()
        before = VolumeStatus.STORED if volume.status is VolumeStatus.STORED else VolumeStatus.AVAILABLE
        ref = self.ref(volume)
        if await self._store.set_volume_status(volume.id, VolumeStatus.MOVING, expected=before, at=now) is None:
            raise why_not_free(await self._store.get_volume(volume.tenant, volume.id))
        try:
            await self._node.checkpoint_volume(ref)
        except Exception as error:
            await undo(error, self._stay(volume))
            raise
        moved = await self._store.set_volume_status(
            volume.id,
            VolumeStatus.STORED,
            expected=VolumeStatus.MOVING,
            at=now,
            region=region,
            event=self._event(EventType.VOLUME_MOVED, replace(volume, region=region)),
        )
        if moved is None:
            raise StateConflict(f"Volume {volume.id} changed meanwhile; try again")
        return moved

    async def _stay(self, volume: Volume) -> None:
        await self._store.set_volume_status(
            volume.id, VolumeStatus.AVAILABLE, expected=VolumeStatus.MOVING, at=self._clock.now()
        )

    async def end(
        self, volume: Volume, event: Event | None = None, *, expired_by: dt.datetime | None = None
    ) -> Volume | None:
        """
        Destroy the key of one that nobody holds; its files go in the background. None: it is in use or, with
        *expired_by*, its lifetime was extended beyond that.
        """
        now = self._clock.now()
        for expected in (VolumeStatus.AVAILABLE, VolumeStatus.STORED):
            ended = await self._store.set_volume_status(
                volume.id, VolumeStatus.DELETING, expected=expected, at=now, expired_by=expired_by, event=event
            )
            if ended is not None:
                self._finish_later(volume.id)
                return ended
        return None

    def _finish_later(self, volume_id: VolumeId) -> None:
        if volume_id not in self._finishing:
            self._finishing.add(volume_id)
            self._shielded.leave(self._finish(volume_id))

    async def _finish(self, volume_id: VolumeId) -> None:
        try:
            await self._node.remove_volume(volume_id)
            await self._store.forget_volume(volume_id)
        except TerpError as error:  # its key is gone; the next sweep tries again
            _log.warning("volume_not_removed", volume=volume_id, error=error.code, context=error.context)
        finally:
            self._finishing.discard(volume_id)

    def _is_over(self, volume: Volume) -> bool:
        return volume.expires_at is not None and volume.expires_at <= self._clock.now()

    def _event(self, kind: EventType, volume: Volume) -> Event:
        told = {"id": volume.id, "name": volume.name, "size_mb": volume.size_mib, "region": volume.region}
        return Event(kind, volume.tenant, self._clock.now(), {"volume": told})

    def _check_region(self, region: str | None) -> None:
        if region not in (None, self._policy.region):
            raise InvalidRequest(f"There is no such region; this server has one: {self._policy.region}")
