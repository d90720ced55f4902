"""Volumes and who holds them: queries, rows, and the part of the store that they are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from terpd.model.errors import AlreadyExists, PlanLimit, VolumeNotFound
from terpd.model.ids import SandboxId, TenantId, VolumeId
from terpd.model.sandbox import FINAL, Sandbox, Status
from terpd.model.snapshot import Receipt
from terpd.model.volume import Volume, VolumeStatus, why_not_free
from terpd.model.webhook import Event
from terpd.sealing.keyring import wrapped_with
from terpd.store.engine import Transactions
from terpd.store.queries import insert_receipt, of_tenant
from terpd.store.rows import receipt_to_row
from terpd.store.schema import UtcTime, volumes
from terpd.store.webhooks import tell

_bind = sa.bindparam
_its = volumes.c.id == _bind("volume_id")
_there = volumes.c.status != VolumeStatus.DELETING
_held = volumes.c.attached_to == _bind("by_sandbox")

_insert = sa.insert(volumes)
_select = sa.select(volumes).where(of_tenant(volumes), _there).order_by(volumes.c.id.desc())
_select_named = _select.where(sa.or_(volumes.c.id == _bind("name_or_id"), volumes.c.name == _bind("name_or_id")))
_count = sa.select(sa.func.count()).select_from(volumes).where(of_tenant(volumes), _there)
_select_on_node_of_all = (
    sa.select(volumes)
    .where(sa.or_(volumes.c.node_id == _bind("on_node"), volumes.c.node_id.is_(None)))
    .order_by(volumes.c.id)
)
_attach = (
    sa.update(volumes)
    .where(_its, of_tenant(volumes), volumes.c.status.in_([VolumeStatus.AVAILABLE, VolumeStatus.STORED]))
    .values(attached_to=_bind("new_holder"), status=VolumeStatus.ATTACHED)
)
_detach_of_all = sa.update(volumes).where(_held).values(attached_to=None, status=VolumeStatus.AVAILABLE)
_home_of_all = sa.update(volumes).where(_held, volumes.c.node_id.is_(None)).values(node_id=_bind("new_node"))
_move_of_all = (
    sa.update(volumes)
    .where(
        _its,
        volumes.c.status == _bind("expected"),
        sa.or_(
            _bind("expired_by", type_=UtcTime).is_(None), volumes.c.expires_at <= _bind("expired_by", type_=UtcTime)
        ),
    )
    .values(status=_bind("new_status"), region=sa.func.coalesce(_bind("new_region", type_=sa.String), volumes.c.region))
    .returning(*volumes.c)
)
_destroy_of_all = sa.update(volumes).where(_its).values(name=None, sealed_key=None)
_set_lifetime = (
    sa.update(volumes)
    .where(_its, of_tenant(volumes), _there)
    .values(
        lifetime_days=_bind("new_days", type_=sa.Integer),
        lifetime_hours=_bind("new_hours", type_=sa.Integer),
        expires_at=_bind("new_expires_at", type_=UtcTime),
    )
    .returning(*volumes.c)
)
_forget_of_all = sa.delete(volumes).where(_its, volumes.c.status == VolumeStatus.DELETING)


# ---- parts of the transactions of its sandbox ----------------------------------------------------


def attach(connection: sa.Connection, sandbox: Sandbox) -> None:
    """
    Let a new sandbox hold the volume that it names, if it names one.

    Raises:
        VolumeInUse: Another one holds it.
        StateConflict: It is being moved.
        VolumeNotFound.
    """
    if sandbox.volume_id is None:
        return
    scope = {"of_tenant": sandbox.tenant, "volume_id": sandbox.volume_id}
    if connection.execute(_attach, {**scope, "new_holder": sandbox.id}).rowcount:
        return
    named = {"of_tenant": sandbox.tenant, "name_or_id": sandbox.volume_id}
    row = connection.execute(_select_named, named).first()
    if row is None:
        raise _unknown(sandbox.volume_id)
    raise why_not_free(_from_row(row))


def follow(connection: sa.Connection, sandbox: Sandbox) -> None:
    """What a change of its sandbox's status is to a volume: it runs with it, or is done with it."""
    if sandbox.volume_id is None:
        return
    if sandbox.status is Status.RUNNING:
        connection.execute(_home_of_all, {"by_sandbox": sandbox.id, "new_node": sandbox.node_id})
    elif sandbox.status in FINAL:
        detach(connection, sandbox.id)


def detach(connection: sa.Connection, sandbox_id: SandboxId) -> None:
    connection.execute(_detach_of_all, {"by_sandbox": sandbox_id})


# ---- the port ------------------------------------------------------------------------------------


class VolumeRecords:
    """The methods of the Store port that are about volumes."""

    _transactions: Transactions

    async def add_volume(self, volume: Volume, *, max_volumes: int) -> None:
        def work(connection: sa.Connection) -> None:
            try:
                connection.execute(_insert, _to_row(volume))
            except exc.IntegrityError as error:
                raise AlreadyExists(f"There is a volume of that name: {volume.name}") from error
            if connection.execute(_count, {"of_tenant": volume.tenant}).scalar_one() > max_volumes:
                raise PlanLimit(
                    f"This key may have no more volumes; delete one first. Limit: {max_volumes}",
                    fields={"limit": max_volumes},
                )

        await self._transactions.write(work)

    async def get_volume(self, tenant: TenantId, name_or_id: str) -> Volume:
        values = {"of_tenant": tenant, "name_or_id": name_or_id}
        row = await self._transactions.read(lambda c: c.execute(_select_named, values).first())
        if row is None:
            raise _unknown(name_or_id)
        return _from_row(row)

    async def list_volumes(self, tenant: TenantId) -> Sequence[Volume]:
        rows = await self._transactions.read(lambda c: c.execute(_select, {"of_tenant": tenant}).all())
        return [_from_row(row) for row in rows]

    async def set_volume_status(
        self,
        volume_id: VolumeId,
        status: VolumeStatus,
        *,
        expected: VolumeStatus,
        at: dt.datetime,
        region: str | None = None,
        expired_by: dt.datetime | None = None,
        event: Event | None = None,
    ) -> Volume | None:
        values = {
            "volume_id": volume_id,
            "new_status": status.value,
            "expected": expected.value,
            "new_region": region,
            "expired_by": expired_by,
        }

        def work(connection: sa.Connection) -> Volume | None:
            row = connection.execute(_move_of_all, values).first()
            if row is None:
                return None
            volume = _from_row(row)
            if status is VolumeStatus.DELETING:
                connection.execute(_destroy_of_all, {"volume_id": volume_id})
                _record_destroyed(connection, volume, at)
            if event is not None:
                tell(connection, event)
            return volume

        return await self._transactions.write(work, erases=status is VolumeStatus.DELETING)

    async def set_volume_lifetime(
        self,
        tenant: TenantId,
        volume_id: VolumeId,
        *,
        days: int | None,
        hours: int | None,
        expires_at: dt.datetime | None,
    ) -> Volume:
        values = {
            "of_tenant": tenant,
            "volume_id": volume_id,
            "new_days": days,
            "new_hours": hours,
            "new_expires_at": expires_at,
        }
        row = await self._transactions.write(lambda c: c.execute(_set_lifetime, values).first())
        if row is None:
            raise _unknown(volume_id)
        return _from_row(row)

    async def forget_volume(self, volume_id: VolumeId) -> None:
        await self._transactions.write(lambda c: c.execute(_forget_of_all, {"volume_id": volume_id}))

    async def volumes_on_node(self, node_id: str) -> Sequence[Volume]:
        values = {"on_node": node_id}
        rows = await self._transactions.read(lambda c: c.execute(_select_on_node_of_all, values).all())
        return [_from_row(row) for row in rows]


def _record_destroyed(connection: sa.Connection, volume: Volume, at: dt.datetime) -> None:
    if volume.sealed_key is None or volume.key_id is None:
        return
    receipt = Receipt(
        tenant=volume.tenant,
        subject=volume.id,
        what=f"disk and checkpoint of volume {volume.id}",
        at=at,
        key_id=volume.key_id,
        server_key_id=wrapped_with(volume.sealed_key),
    )
    connection.execute(insert_receipt, receipt_to_row(receipt))


def _to_row(volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "tenant": volume.tenant,
        "name": volume.name,
        "size_mib": volume.size_mib,
        "status": volume.status.value,
        "region": volume.region,
        "node_id": volume.node_id,
        "created_at": volume.created_at,
        "attached_to": volume.attached_to,
        "lifetime_days": volume.lifetime_days,
        "lifetime_hours": volume.lifetime_hours,
        "expires_at": volume.expires_at,
        "key_id": volume.key_id,
        "sealed_key": volume.sealed_key,
    }


def _from_row(row: Any) -> Volume:
    return Volume(
        id=VolumeId(row.id),
        tenant=TenantId(row.tenant),
        name=row.name or "",
        size_mib=row.size_mib,
        status=VolumeStatus(row.status),
        region=row.region,
        node_id=row.node_id,
        created_at=row.created_at,
        attached_to=None if row.attached_to is None else SandboxId(row.attached_to),
        lifetime_days=row.lifetime_days,
        lifetime_hours=row.lifetime_hours,
        expires_at=row.expires_at,
        key_id=row.key_id,
        sealed_key=None if row.sealed_key is None else bytes(row.sealed_key),
    )


def _unknown(name_or_id: str) -> VolumeNotFound:
    return VolumeNotFound(f"There is no such volume: {name_or_id[:128]!r}")
