"""
Every statement the store runs, built once; executing one only binds values.

Rows that belong to a tenant are reached through `of_tenant` and nowhere else. The few statements that cross
tenants (leases, reconciliation, the compare-and-set by id) serve the server itself and say so in their name.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from terpd.model.ports import SandboxFilter
from terpd.model.sandbox import FINAL, TRANSITIONS, Status
from terpd.store.schema import UtcTime, api_keys, idempotency_keys, sandbox_metadata, sandboxes

LIVE = tuple(sorted(str(status) for status in Status if status not in FINAL))

_bind = sa.bindparam


def of_tenant(table: sa.Table) -> sa.ColumnElement[bool]:
    """The tenant scope: the statement it is part of must be executed with a value for `of_tenant`."""
    column: sa.ColumnElement[str] = table.c.tenant
    return column == _bind("of_tenant", type_=sa.String)


# ---- sandboxes -----------------------------------------------------------------------------------

_live_of_tenant = (
    sa.select(sa.func.count()).select_from(sandboxes).where(of_tenant(sandboxes), sandboxes.c.status.in_(LIVE))
)
_new_row = sa.select(*[_bind(column.name, type_=column.type).label(column.name) for column in sandboxes.c])

insert_sandbox = sa.insert(sandboxes)
insert_sandbox_below_limit = sa.insert(sandboxes).from_select(
    [column.name for column in sandboxes.c],
    _new_row.where(_live_of_tenant.scalar_subquery() < _bind("max_live", type_=sa.Integer)),
)
"""One statement checks and inserts. SQLite has one writer at a time; an engine with more locks the tenant first."""

insert_metadata = sa.insert(sandbox_metadata)
delete_starting = sa.delete(sandboxes).where(
    sandboxes.c.id == _bind("sandbox_id"), sandboxes.c.status == Status.STARTING.value
)
select_sandbox = sa.select(sandboxes).where(sandboxes.c.id == _bind("sandbox_id"), of_tenant(sandboxes))
count_live = _live_of_tenant


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
    allowed_from = sorted(str(before) for before, after in TRANSITIONS.items() if status in after)
    columns = sandboxes.c
    expired_by = _bind("expired_by", type_=UtcTime)
    return (
        sa.update(sandboxes)
        .where(
            columns.id == _bind("sandbox_id"),
            columns.status.in_(allowed_from),
            sa.or_(expired_by.is_(None), columns.expires_at <= expired_by),
        )
        .values(
            status=status.value,
            expires_at=sa.func.coalesce(_bind("new_expires_at", type_=UtcTime), columns.expires_at),
            started_at=sa.func.coalesce(columns.started_at, _bind("new_started_at", type_=UtcTime)),
            ended_at=sa.func.coalesce(columns.ended_at, _bind("new_ended_at", type_=UtcTime)),
            end_reason=sa.func.coalesce(columns.end_reason, _bind("new_end_reason", type_=sa.String)),
        )
        .returning(*columns)
    )


move_to = {status: _move_to(status) for status in Status}

update_lease = (
    sa.update(sandboxes)
    .where(
        sandboxes.c.id == _bind("sandbox_id"),
        of_tenant(sandboxes),
        sandboxes.c.status == Status.RUNNING.value,
    )
    .values(expires_at=_bind("new_expires_at", type_=UtcTime))
    .returning(*sandboxes.c)
)

_on_node = sandboxes.c.node_id == _bind("on_node")

select_live_of_all = sa.select(sandboxes).where(_on_node, sandboxes.c.status.in_(LIVE)).order_by(sandboxes.c.id)
select_expired_of_all = (
    sa.select(sandboxes)
    .where(_on_node, sandboxes.c.status == Status.RUNNING.value, sandboxes.c.expires_at <= _bind("now", type_=UtcTime))
    .order_by(sandboxes.c.expires_at)
)
select_next_expiry_of_all = sa.select(sa.func.min(sandboxes.c.expires_at, type_=UtcTime)).where(
    _on_node, sandboxes.c.status == Status.RUNNING.value
)

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
