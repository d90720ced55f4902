"""Webhooks and their outbox: queries, rows, and the part of the store that they are."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from terpd.model.errors import LimitExceeded, WebhookNotFound
from terpd.model.ids import TenantId, WebhookId, new_delivery_id
from terpd.model.webhook import MAX_PENDING, Delivery, DeliveryStatus, Event, EventType, Webhook, body_of
from terpd.store.engine import Transactions
from terpd.store.queries import of_tenant
from terpd.store.schema import UtcTime, deliveries, webhooks

MAX_METADATA_BYTES = 8 * 1024  # as JSON; a sandbox's metadata above that is not repeated in each of its events

_DROPPED = f"It was not sent: more than {MAX_PENDING} were waiting for this webhook"
_SWITCHED_OFF = "It was not sent: the webhook was switched off"

_bind = sa.bindparam
_its = webhooks.c.id == _bind("webhook_id")
_of_it = deliveries.c.webhook_id == _bind("of_webhook")
_pending = deliveries.c.status == DeliveryStatus.PENDING

_insert = sa.insert(webhooks)
_select = sa.select(webhooks).where(of_tenant(webhooks)).order_by(webhooks.c.id.desc())
_select_one = sa.select(webhooks).where(_its, of_tenant(webhooks))
_count = sa.select(sa.func.count()).select_from(webhooks).where(of_tenant(webhooks))
_enable = sa.update(webhooks).where(_its, of_tenant(webhooks)).values(active=True, failures=0).returning(*webhooks.c)
_delete = sa.delete(webhooks).where(_its, of_tenant(webhooks))

_active = sa.select(webhooks.c.id, webhooks.c.event_types).where(webhooks.c.active)
_select_active = _active.where(of_tenant(webhooks))
_select_active_of_all = _active.order_by(webhooks.c.id)

_insert_delivery = sa.insert(deliveries)
_select_deliveries = (
    sa.select(*(column for column in deliveries.c if column.name != "body"))
    .where(_of_it)
    .order_by(deliveries.c.id.desc())
    .limit(_bind("limit", type_=sa.Integer))
)
_count_pending = sa.select(sa.func.count()).select_from(deliveries).where(_pending)
_oldest_pending = (
    sa.select(deliveries.c.id)
    .where(_of_it, _pending)
    .order_by(deliveries.c.id)
    .limit(_bind("excess", type_=sa.Integer))
)
_fail = sa.update(deliveries).values(
    status=DeliveryStatus.FAILED, error=_bind("why"), finished_at=_bind("at", type_=UtcTime)
)
_fail_all_pending = _fail.where(_of_it, _pending)
_fail_oldest_pending = _fail.where(deliveries.c.id.in_(_oldest_pending))

# By their ids: the bodies are read of those alone that are returned, and sorted by nothing.
_due = (
    sa.select(
        deliveries.c.id,
        sa.func.row_number().over(partition_by=deliveries.c.webhook_id, order_by=deliveries.c.id).label("turn"),
    )
    .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    .where(_pending, deliveries.c.next_try_at <= _bind("now", type_=UtcTime), webhooks.c.active)
    .subquery()
)
_first_due = (
    sa.select(_due.c.id)
    .where(_due.c.turn <= _bind("of_one", type_=sa.Integer))
    .order_by(_due.c.id)
    .limit(_bind("limit", type_=sa.Integer))
)
_select_due_of_all = (
    sa.select(
        *deliveries.c,
        *(column.label(f"webhook_{column.name}") for column in webhooks.c if column.name != "id"),
    )
    .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
    .where(deliveries.c.id.in_(_first_due))
    .order_by(deliveries.c.id)
)

_record_delivery = (
    sa.update(deliveries)
    .where(deliveries.c.id == _bind("delivery_id"), _pending)
    .values(
        status=_bind("new_status"),
        next_try_at=_bind("new_next_try_at", type_=UtcTime),
        tries=_bind("new_tries"),
        response_status=_bind("new_response_status"),
        error=_bind("new_error"),
        finished_at=_bind("new_finished_at", type_=UtcTime),
    )
)
_OUTCOMES: dict[DeliveryStatus, dict[str, Any]] = {
    DeliveryStatus.PENDING: {"last_error": _bind("new_error")},
    DeliveryStatus.DELIVERED: {
        "last_error": None,
        "failures": 0,
        "last_delivery_at": _bind("new_finished_at", type_=UtcTime),
    },
    DeliveryStatus.FAILED: {"last_error": _bind("new_error"), "failures": webhooks.c.failures + 1},
}
_note = {
    status: sa.update(webhooks).where(_its).values(**values).returning(webhooks.c.failures)
    for status, values in _OUTCOMES.items()
}
_switch_off = sa.update(webhooks).where(_its, webhooks.c.active).values(active=False)

_finished = (
    sa.select(
        deliveries.c.id,
        deliveries.c.finished_at,
        sa.func.row_number().over(partition_by=deliveries.c.webhook_id, order_by=deliveries.c.id.desc()).label("newer"),
    )
    .where(deliveries.c.finished_at.is_not(None))
    .subquery()
)
_prune_of_all = sa.delete(deliveries).where(
    deliveries.c.id.in_(
        sa.select(_finished.c.id)
        .where(
            sa.or_(
                _finished.c.finished_at < _bind("before", type_=UtcTime),
                _finished.c.newer > _bind("keep", type_=sa.Integer),
            )
        )
        .limit(_bind("limit", type_=sa.Integer))
    )
)


def tell(connection: sa.Connection, event: Event) -> None:
    """Write one delivery of *event* for each active webhook that asks for it: part of its caller's transaction."""
    if event.tenant is None:
        found = connection.execute(_select_active_of_all)
    else:
        found = connection.execute(_select_active, {"of_tenant": event.tenant})
    event = _within_bounds(event)
    for row in found.all():
        if row.event_types is None or event.type.value in row.event_types:
            delivery_id = new_delivery_id()
            values = {
                "id": delivery_id,
                "webhook_id": row.id,
                "type": event.type.value,
                "body": body_of(event, delivery_id),
                "status": DeliveryStatus.PENDING.value,
                "created_at": event.at,
                "next_try_at": event.at,
                "tries": 0,
            }
            connection.execute(_insert_delivery, values)
            _bound(connection, row.id, event.at)


def _within_bounds(event: Event) -> Event:
    """Without the sandbox's metadata if that is large: each webhook keeps a copy of each event for days."""
    sandbox = event.data.get("sandbox")
    if sandbox is None or len(json.dumps(sandbox["metadata"], separators=(",", ":"))) <= MAX_METADATA_BYTES:
        return event
    return replace(event, data={**event.data, "sandbox": {**sandbox, "metadata": None, "metadata_left_out": True}})


def _bound(connection: sa.Connection, webhook_id: str, at: dt.datetime) -> None:
    count = connection.execute(_count_pending.where(_of_it), {"of_webhook": webhook_id}).scalar_one()
    if count > MAX_PENDING:
        values = {"of_webhook": webhook_id, "excess": count - MAX_PENDING, "why": _DROPPED, "at": at}
        connection.execute(_fail_oldest_pending, values)


def _record(connection: sa.Connection, delivery: Delivery, max_failures: int) -> bool:
    """As `Store.record_delivery`."""
    values = {
        "delivery_id": delivery.id,
        "new_status": delivery.status.value,
        "new_next_try_at": delivery.next_try_at,
        "new_tries": delivery.tries,
        "new_response_status": delivery.response_status,
        "new_error": delivery.error,
        "new_finished_at": delivery.finished_at,
    }
    if connection.execute(_record_delivery, values).rowcount == 0:
        return False
    of_webhook = {"webhook_id": delivery.webhook_id}
    failures = connection.execute(_note[delivery.status], {**values, **of_webhook}).scalar_one()
    if failures < max_failures or connection.execute(_switch_off, of_webhook).rowcount == 0:
        return False
    values = {"of_webhook": delivery.webhook_id, "why": _SWITCHED_OFF, "at": delivery.finished_at}
    connection.execute(_fail_all_pending, values)
    return True


class WebhookRecords:
    """The webhooks of a Store."""

    _transactions: Transactions

    async def add_webhook(self, webhook: Webhook, *, max_webhooks: int) -> None:
        row = {
            "id": webhook.id,
            "tenant": webhook.tenant,
            "url": webhook.url,
            "event_types": None if webhook.event_types is None else [each.value for each in webhook.event_types],
            "active": webhook.active,
            "created_at": webhook.created_at,
            "failures": webhook.failures,
            "last_delivery_at": webhook.last_delivery_at,
            "last_error": webhook.last_error,
            "sealed_secret": webhook.sealed_secret,
        }

        def work(connection: sa.Connection) -> None:
            connection.execute(_insert, row)
            if connection.execute(_count, {"of_tenant": webhook.tenant}).scalar_one() > max_webhooks:
                raise LimitExceeded(
                    f"There may be {max_webhooks} webhooks; delete one first", fields={"limit": max_webhooks}
                )

        await self._transactions.write(work)

    async def list_webhooks(self, tenant: TenantId) -> Sequence[Webhook]:
        rows = await self._transactions.read(lambda c: c.execute(_select, {"of_tenant": tenant}).all())
        return [_webhook(row, row.id) for row in rows]

    async def enable_webhook(self, tenant: TenantId, webhook_id: WebhookId) -> Webhook:
        values = {"of_tenant": tenant, "webhook_id": webhook_id}
        row = await self._transactions.write(lambda c: c.execute(_enable, values).first())
        if row is None:
            raise _unknown(webhook_id)
        return _webhook(row, row.id)

    async def delete_webhook(self, tenant: TenantId, webhook_id: WebhookId) -> bool:
        values = {"of_tenant": tenant, "webhook_id": webhook_id}
        return await self._transactions.write(lambda c: c.execute(_delete, values).rowcount > 0, erases=True)

    async def list_deliveries(self, tenant: TenantId, webhook_id: WebhookId, *, limit: int) -> Sequence[Delivery]:
        """As `Store.list_deliveries`; their bodies are left empty, as nobody is shown them."""
        scope = {"of_tenant": tenant, "webhook_id": webhook_id}
        values = {"of_webhook": webhook_id, "limit": limit}

        def work(connection: sa.Connection) -> Sequence[Any] | None:
            if connection.execute(_select_one, scope).first() is None:
                return None
            return connection.execute(_select_deliveries, values).all()

        rows = await self._transactions.read(work)
        if rows is None:
            raise _unknown(webhook_id)
        return [_delivery(row, body=b"") for row in rows]

    async def add_event(self, event: Event) -> None:
        await self._transactions.write(lambda c: tell(c, event))

    async def due_deliveries(self, now: dt.datetime, *, of_one: int, limit: int) -> Sequence[tuple[Delivery, Webhook]]:
        values = {"now": now, "of_one": of_one, "limit": limit}
        rows = await self._transactions.read(lambda c: c.execute(_select_due_of_all, values).all())
        return [(_delivery(row, body=bytes(row.body)), _webhook(row, row.webhook_id, "webhook_")) for row in rows]

    async def count_pending_deliveries(self) -> int:
        return await self._transactions.read(lambda c: c.execute(_count_pending).scalar_one())

    async def record_delivery(self, delivery: Delivery, *, max_failures: int) -> bool:
        return await self._transactions.write(lambda c: _record(c, delivery, max_failures))

    async def prune_deliveries(self, before: dt.datetime, *, keep: int, limit: int) -> int:
        values = {"before": before, "keep": keep, "limit": limit}
        return await self._transactions.write(lambda c: c.execute(_prune_of_all, values).rowcount)


def _webhook(row: Any, webhook_id: str, prefix: str = "") -> Webhook:
    def column(name: str) -> Any:
        return getattr(row, prefix + name)

    types = column("event_types")
    return Webhook(
        id=WebhookId(webhook_id),
        tenant=TenantId(column("tenant")),
        url=column("url"),
        event_types=None if types is None else tuple(EventType(each) for each in types),
        active=column("active"),
        created_at=column("created_at"),
        failures=column("failures"),
        last_delivery_at=column("last_delivery_at"),
        last_error=column("last_error"),
        sealed_secret=bytes(column("sealed_secret")),
    )


def _delivery(row: Any, *, body: bytes) -> Delivery:
    return Delivery(
        id=row.id,
        webhook_id=WebhookId(row.webhook_id),
        type=EventType(row.type),
        body=body,
        status=DeliveryStatus(row.status),
        created_at=row.created_at,
        next_try_at=row.next_try_at,
        tries=row.tries,
        response_status=row.response_status,
        error=row.error,
        finished_at=row.finished_at,
    )


def _unknown(webhook_id: WebhookId) -> WebhookNotFound:
    return WebhookNotFound(f"There is no such webhook: {webhook_id}")
