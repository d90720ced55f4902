"""Changes of more than one statement: functions of a connection, each part of its caller's transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import exc

from terpd.model.errors import AlreadyExists, PlanLimit, SnapshotCap, StateConflict
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Change, Idempotency
from terpd.model.sandbox import FINAL, EndReason, Sandbox, Status
from terpd.model.snapshot import Receipt, Snapshot
from terpd.model.webhook import event_of
from terpd.sealing.keyring import wrapped_with
from terpd.store import queries
from terpd.store.rows import receipt_to_row, sandbox_from_row
from terpd.store.volumes import follow
from terpd.store.webhooks import tell

IDEMPOTENCY_KEPT = dt.timedelta(hours=24)


def move(
    connection: sa.Connection, sandbox_id: SandboxId, status: Status, at: dt.datetime, change: Change
) -> Sandbox | None:
    """As `Store.set_status`."""
    before = connection.execute(queries.lock_sandbox, {"sandbox_id": sandbox_id}).first()
    values = {
        "sandbox_id": sandbox_id,
        "at": at,
        "expected": change.expected,
        "expired_by": change.expired_by,
        "new_expires_at": change.expires_at,
        "new_end_reason": change.reason,
        "new_state_id": change.state_id,
        "new_stored_bytes": change.stored_bytes,
        "new_paused_expires_at": change.paused_expires_at,
    }
    row = connection.execute(queries.move_to[status], values).first()
    if row is None or before is None:
        return None
    was, sandbox = sandbox_from_row(before), sandbox_from_row(row)
    check_on_node(connection, sandbox.tenant, change.max_on_node)
    _check_saved(connection, sandbox.tenant, change.max_saved)
    if status in FINAL:
        record_destroyed(connection, was, at)
    follow(connection, sandbox)
    if event := event_of(was, sandbox, at):
        tell(connection, event)
    if change.reason is EndReason.START_FAILED:
        connection.execute(queries.delete_idempotent_of_sandbox, {"sandbox_id": sandbox_id})
    return sandbox


def set_network(connection: sa.Connection, values: Mapping[str, object]) -> Sandbox | None:
    """As `Store.set_network_policy`, with the values of its query; None when there is no such sandbox."""
    row = connection.execute(queries.update_network, values).first()
    if row is not None:
        return sandbox_from_row(row)
    scope = {name: values[name] for name in ("of_tenant", "sandbox_id")}
    found = connection.execute(queries.select_sandbox, scope).first()
    if found is None:
        return None
    sandbox = sandbox_from_row(found)
    if sandbox.status in FINAL:
        raise StateConflict(
            f"Sandbox {sandbox.id} is {sandbox.status} ({sandbox.end_reason}); create a new one",
            fields={"status": str(sandbox.status)},
        )
    raise StateConflict(f"Sandbox {sandbox.id} has no network device; create another one with network 'restricted'")


# A limit is checked by counting after the act, which an excess undoes with the rest of its transaction. SQLite has one
# writer at a time; an engine with more locks the tenant first.


def check_on_node(connection: sa.Connection, tenant: TenantId, limit: int | None) -> None:
    if _exceeds(connection, queries.count_on_node, tenant, limit):
        raise PlanLimit(
            f"All sandboxes that this key may run at once are in use; terminate or pause one, or wait. Limit: {limit}",
            fields={"limit": limit},
        )


def _check_saved(connection: sa.Connection, tenant: TenantId, limit: int | None) -> None:
    if _exceeds(connection, queries.count_saved, tenant, limit):
        raise SnapshotCap(
            f"This key may keep no more paused sandboxes; resume or terminate one first. Limit: {limit}",
            fields={"limit": limit},
        )


def check_named(connection: sa.Connection, tenant: TenantId, limit: int | None) -> None:
    if _exceeds(connection, queries.count_snapshots, tenant, limit):
        raise SnapshotCap(
            f"This key may keep no more snapshots; delete one first. Limit: {limit}", fields={"limit": limit}
        )


def _exceeds(connection: sa.Connection, count: sa.Select[int], tenant: TenantId, limit: int | None) -> bool:
    return limit is not None and connection.execute(count, {"of_tenant": tenant}).scalar_one() > limit


def record_destroyed(connection: sa.Connection, owner: Sandbox | Snapshot, at: dt.datetime) -> None:
    """Write the receipt of the data key that *owner* had until this transaction; none if it had none."""
    if owner.sealed_key is None or owner.key_id is None:
        return
    kind = "snapshot" if isinstance(owner, Snapshot) else "sandbox"
    receipt = Receipt(
        tenant=owner.tenant,
        subject=owner.id,
        what=f"memory and device state, disk layers and environment of {kind} {owner.id}",
        at=at,
        key_id=owner.key_id,
        server_key_id=wrapped_with(owner.sealed_key),
    )
    connection.execute(queries.insert_receipt, receipt_to_row(receipt))


def record_idempotency(connection: sa.Connection, sandbox: Sandbox, idempotency: Idempotency) -> None:
    """Old keys go when a new one comes: only who uses them pays, and the table stays a day long."""
    connection.execute(queries.delete_idempotent_before, {"limit": sandbox.created_at - IDEMPOTENCY_KEPT})
    row = {
        "tenant": sandbox.tenant,
        "key": idempotency.key,
        "digest": idempotency.digest,
        "sandbox_id": sandbox.id,
        "created_at": sandbox.created_at,
    }
    try:
        connection.execute(queries.insert_idempotent, row)
    except exc.IntegrityError as error:
        raise AlreadyExists("Another request with this Idempotency-Key was faster; repeat it") from error
