"""
Every statement the store runs, built once; executing one only binds values.

Rows that belong to a tenant are reached through `of_tenant` and nowhere else. The few statements that cross
tenants (leases, reconciliation, previews, the record of connections, the compare-and-set by id) serve the server
itself and say so in their name.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from terpd.model.network import Decision, EgressFilter
from terpd.model.ports import SandboxFilter
from terpd.model.sandbox import FINAL, LIVE, ON_NODE, SAVED, TRANSITIONS, Network, Status
from terpd.model.snapshot import SnapshotStatus
from terpd.store.schema import (
    UtcTime,
    api_keys,
    egress,
    idempotency_keys,
    receipts,
    sandbox_metadata,
    sandboxes,
    snapshots,
    traffic,
)

_bind = sa.bindparam


def of_tenant(table: sa.Table) -> sa.ColumnElement[bool]:
    """The tenant scope: the statement it is part of must be executed with a value for `of_tenant`."""
    column: sa.ColumnElement[str] = table.c.tenant
    return column == _bind("of_tenant", type_=sa.String)


# ---- sandboxes -----------------------------------------------------------------------------------

insert_sandbox = sa.insert(sandboxes)
insert_metadata = sa.insert(sandbox_metadata)
delete_starting = sa.delete(sandboxes).where(
    sandboxes.c.id == _bind("sandbox_id"), sandboxes.c.status == Status.STARTING
)
select_sandbox = sa.select(sandboxes).where(sandboxes.c.id == _bind("sandbox_id"), of_tenant(sandboxes))
select_sandbox_of_all = sa.select(sandboxes).where(sandboxes.c.id == _bind("sandbox_id"))
lock_sandbox = sa.select(sandboxes).where(sandboxes.c.id == _bind("sandbox_id")).with_for_update()
"""As it is before it changes in the same transaction."""


def _count(table: sa.Table, *which: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(table).where(of_tenant(table), *which)


count_on_node = _count(sandboxes, sandboxes.c.status.in_(sorted(ON_NODE)))
count_saved = _count(sandboxes, sandboxes.c.status.in_(sorted(SAVED)))


def select_page(where: SandboxFilter) -> sa.Select[Any]:
    """Newest first: ids are ordered by the time of their making."""
    query = sa.select(sandboxes).where(of_tenant(sandboxes)).order_by(sandboxes.c.id.desc()).limit(where.limit)
    if where.status is not None:
        query = query.where(sandboxes.c.status == where.status.value)
    if where.before is not None:
        query = query.where(sandboxes.c.id < where.before)
    for key, value in where.metadata.items():
        row = sandbox_metadata.alias()
        query = query.where(
            sa.exists().where(row.c.sandbox_id == sandboxes.c.id, row.c.key == key, row.c.value == value)
        )
    return query


def _move_to(status: Status) -> ReturningUpdate[Any]:
    """Compare and set over all tenants: None in a bound value keeps what is recorded."""
    allowed_from = sorted(before for before, after in TRANSITIONS.items() if status in after)
    columns = sandboxes.c
    expected = _bind("expected", type_=sa.String)
    expired_by = _bind("expired_by", type_=UtcTime)
    at = _bind("at", type_=UtcTime)
    ends_at = sa.case((columns.status == Status.PAUSED, columns.paused_expires_at), else_=columns.expires_at)
    values: dict[str, Any] = {
        "status": status,
        "expires_at": sa.func.coalesce(_bind("new_expires_at", type_=UtcTime), columns.expires_at),
        "end_reason": sa.func.coalesce(columns.end_reason, _bind("new_end_reason", type_=sa.String)),
    }
    for name in ("state_id", "stored_bytes", "paused_expires_at"):
        keep = sa.func.coalesce(_bind(f"new_{name}", type_=columns[name].type), columns[name])
        values[name] = keep if status in SAVED else None
    if status is Status.RUNNING:
        values["started_at"] = sa.func.coalesce(columns.started_at, at)
        values["window_began_at"] = sa.case((columns.status == Status.PAUSING, columns.window_began_at), else_=at)
    if status in FINAL:
        values |= {"ended_at": sa.func.coalesce(columns.ended_at, at), "sealed_key": None}
    return (
        sa.update(sandboxes)
        .where(
            columns.id == _bind("sandbox_id"),
            columns.status.in_(allowed_from),
            sa.or_(expected.is_(None), columns.status == expected),
            sa.or_(expired_by.is_(None), ends_at <= expired_by),
        )
        .values(values)
        .returning(*columns)
    )


move_to = {status: _move_to(status) for status in Status}

update_lease = (
    sa.update(sandboxes)
    .where(sandboxes.c.id == _bind("sandbox_id"), of_tenant(sandboxes), sandboxes.c.status == Status.RUNNING)
    .values(expires_at=_bind("new_expires_at", type_=UtcTime), lease_s=_bind("new_lease_s", type_=sa.Integer))
    .returning(*sandboxes.c)
)

update_network = (
    sa.update(sandboxes)
    .where(
        sandboxes.c.id == _bind("sandbox_id"),
        of_tenant(sandboxes),
        sandboxes.c.status.in_(sorted(LIVE)),
        sandboxes.c.network != Network.OFF,
    )
    .values(
        network=_bind("new_network"), allow_domains=_bind("new_allow_domains"), report_only=_bind("new_report_only")
    )
    .returning(*sandboxes.c)
)

_on_node = sandboxes.c.node_id == _bind("on_node")

select_live_of_all = sa.select(sandboxes).where(_on_node, sandboxes.c.status.in_(sorted(LIVE))).order_by(sandboxes.c.id)

# Each half has an index of its own; one condition over both would read all that live.
_ENDS = ((Status.RUNNING, sandboxes.c.expires_at), (Status.PAUSED, sandboxes.c.paused_expires_at))
select_expired_of_all = sa.union_all(
    *(
        sa.select(sandboxes, ends_at.label("ends_at")).where(
            _on_node, sandboxes.c.status == status, ends_at <= _bind("now", type_=UtcTime)
        )
        for status, ends_at in _ENDS
    )
).order_by("ends_at")
_next_ends = sa.union_all(
    *(
        sa.select(sa.func.min(ends_at, type_=UtcTime).label("ends_at")).where(_on_node, sandboxes.c.status == status)
        for status, ends_at in _ENDS
    )
).subquery()
select_next_expiry_of_all = sa.select(sa.func.min(_next_ends.c.ends_at, type_=UtcTime))

# ---- snapshots and receipts ----------------------------------------------------------------------

insert_snapshot = sa.insert(snapshots)
select_snapshot = sa.select(snapshots).where(snapshots.c.id == _bind("state_id"), of_tenant(snapshots))
select_snapshots = (
    sa.select(snapshots).where(of_tenant(snapshots), ~snapshots.c.for_fork).order_by(snapshots.c.id.desc())
)
count_snapshots = _count(snapshots, ~snapshots.c.for_fork)
select_snapshots_of_all = sa.select(snapshots).where(snapshots.c.node_id == _bind("on_node")).order_by(snapshots.c.id)
_capturing = sa.and_(snapshots.c.id == _bind("capturing"), snapshots.c.status == SnapshotStatus.CAPTURING)
finish_snapshot = (
    sa.update(snapshots)
    .where(_capturing)
    .values(
        status=SnapshotStatus.READY,
        ready_at=_bind("at", type_=UtcTime),
        stored_bytes=_bind("new_stored_bytes"),
        stopped_ms=_bind("new_stopped_ms"),
    )
    .returning(*snapshots.c)
)
lock_capturing = sa.select(snapshots).where(_capturing).with_for_update()
fail_snapshot = (
    sa.update(snapshots)
    .where(_capturing)
    .values(status=SnapshotStatus.FAILED, error=_bind("new_error"), sealed_key=None)
)
delete_snapshot = (
    sa.delete(snapshots).where(snapshots.c.id == _bind("state_id"), of_tenant(snapshots)).returning(*snapshots.c)
)

insert_receipt = sa.insert(receipts)
select_receipts = (
    sa.select(receipts)
    .where(
        of_tenant(receipts),
        sa.or_(_bind("subject", type_=sa.String).is_(None), receipts.c.subject == _bind("subject", type_=sa.String)),
    )
    .order_by(receipts.c.at.desc(), receipts.c.subject.desc())
    .limit(_bind("limit", type_=sa.Integer))
)

# ---- connections ---------------------------------------------------------------------------------

insert_egress = sa.insert(egress)
select_known_egress_of_all = sa.select(egress.c.id).where(egress.c.id.in_(_bind("ids", expanding=True)))
insert_traffic = sa.insert(traffic)
_METERS = ("bytes_out", "bytes_in", "connections", "blocked")
add_traffic_of_all = (
    sa.update(traffic)
    .where(traffic.c.sandbox_id == _bind("of_sandbox"))
    .values({name: traffic.c[name] + _bind(f"add_{name}") for name in _METERS})
)
select_traffic_of_all = sa.select(traffic).where(traffic.c.sandbox_id == _bind("of_sandbox"))
count_egress_of_all = sa.select(sa.func.count()).select_from(egress).where(egress.c.sandbox_id == _bind("of_sandbox"))
thin_egress_of_all = sa.delete(egress).where(
    egress.c.id.in_(
        sa.select(egress.c.id)
        .where(egress.c.sandbox_id == _bind("of_sandbox"))
        .order_by(sa.case((egress.c.decision == Decision.BLOCKED, 0), else_=1), egress.c.id)
        .limit(_bind("excess", type_=sa.Integer))
    )
)
"""Blocked ones go first: who floods the record with them must not push out what was sent."""
prune_egress_of_all = sa.delete(egress).where(
    egress.c.id.in_(
        sa.select(egress.c.id)
        .where(egress.c.at < _bind("before", type_=UtcTime))
        .order_by(egress.c.at)
        .limit(_bind("limit", type_=sa.Integer))
    )
)


def select_egress(where: EgressFilter) -> sa.Select[Any]:
    """Newest first: ids are ordered by time."""
    query = (
        sa.select(egress)
        .where(of_tenant(egress), egress.c.sandbox_id == _bind("of_sandbox"))
        .order_by(egress.c.id.desc())
        .limit(where.limit)
    )
    if where.decision is not None:
        query = query.where(egress.c.decision == where.decision.value)
    if where.name is not None:
        query = query.where(egress.c.name == where.name)
    if where.since is not None:
        query = query.where(egress.c.at >= where.since)
    if where.before is not None:
        query = query.where(egress.c.id < where.before)
    return query


# ---- keys ----------------------------------------------------------------------------------------

insert_key = sa.insert(api_keys)
select_key_by_digest = sa.select(api_keys).where(api_keys.c.digest == _bind("by_digest", type_=sa.LargeBinary))
select_keys_of_all = sa.select(api_keys).order_by(api_keys.c.id)
revoke_key = (
    sa.update(api_keys)
    .where(api_keys.c.id == _bind("key_id"))
    .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, _bind("now", type_=UtcTime)))
    .returning(*api_keys.c)
)

# ---- idempotency ---------------------------------------------------------------------------------

insert_idempotent = sa.insert(idempotency_keys)
select_idempotent = sa.select(idempotency_keys.c.digest, idempotency_keys.c.sandbox_id).where(
    of_tenant(idempotency_keys), idempotency_keys.c.key == _bind("by_key")
)
delete_idempotent_of_sandbox = sa.delete(idempotency_keys).where(idempotency_keys.c.sandbox_id == _bind("sandbox_id"))
delete_idempotent_before = sa.delete(idempotency_keys).where(
    idempotency_keys.c.created_at < _bind("limit", type_=UtcTime)
)

ping = sa.select(sa.literal(1))
