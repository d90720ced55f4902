"""
Sends what waits in the outbox, at least once: an event is taken off it when its outcome is recorded, after it was sent.

Each webhook has a few deliveries under way and no more, so that one that is slow holds up its own alone.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import dataclass, field, replace

import structlog

from terpd.control.clock import Clock
from terpd.control.webhooks import signature, signing_secret
from terpd.model.errors import TerpError
from terpd.model.ids import TenantId
from terpd.model.ports import Courier, Posted, Store
from terpd.model.webhook import (
    KEPT_DAYS,
    KEPT_DELIVERIES,
    MAX_FAILURES,
    RETRIES,
    RETRY_AFTER_S,
    Delivery,
    DeliveryStatus,
    Webhook,
)
from terpd.sealing.keyring import KeyRing

OF_WEBHOOK = 2  # under way at the same time
OF_TENANT = 16
AT_ONCE = 128
POLL_S = 0.5  # events come with changes of the store, which has no bell
PRUNE_EVERY_S = 600.0
PRUNE_AT_ONCE = 2000  # rows a transaction: others write in between

_log = structlog.get_logger(__name__)


@dataclass
class _UnderWay:
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    of_tenant: Counter[TenantId] = field(default_factory=Counter)
    done: set[str] = field(default_factory=set)  # since the outbox was last asked


class Deliveries:
    """
    Attributes:
        outcomes: Tries since the start by what came of them: delivered, retried, failed.
    """

    def __init__(self, store: Store, courier: Courier, keys: KeyRing, clock: Clock) -> None:
        self._store = store
        self._courier = courier
        self._keys = keys
        self._clock = clock
        self._bell = asyncio.Event()
        self._never = asyncio.Event()
        self._under_way = _UnderWay()
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled; what is under way then is sent again by the next start."""
        try:
            while True:
                self._bell.clear()
                try:
                    await self._begin_due()
                except TerpError as error:
                    _log.warning("deliveries_unreadable", error=error.code, context=error.context)
                await self._clock.wait(self._bell, POLL_S)
        finally:
            tasks = list(self._under_way.tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run_pruning(self) -> None:
        """Remove what is finished and old, at once and from time to time. Until cancelled."""
        while True:
            try:
                await self.prune()
            except TerpError as error:
                _log.warning("prune_failed", error=error.code, context=error.context)
            await self._clock.wait(self._never, PRUNE_EVERY_S)

    async def prune(self) -> int:
        """Return how many deliveries were removed."""
        before = self._clock.now() - dt.timedelta(days=KEPT_DAYS)
        removed = 0
        while (found := await self._store.prune_deliveries(before, keep=KEPT_DELIVERIES, limit=PRUNE_AT_ONCE)) > 0:
            removed += found
        return removed

    async def _begin_due(self) -> None:
        under_way = self._under_way
        under_way.done.clear()
        # Those under way are still pending and found again: so no webhook has more than OF_WEBHOOK of them.
        due = await self._store.due_deliveries(self._clock.now(), of_one=OF_WEBHOOK, limit=1000)
        for delivery, webhook in due:
            if len(under_way.tasks) >= AT_ONCE:
                return
            if delivery.id in under_way.done:  # by now what was read is no longer so
                continue
            if delivery.id in under_way.tasks or under_way.of_tenant[webhook.tenant] >= OF_TENANT:
                continue
            under_way.of_tenant[webhook.tenant] += 1
            task = asyncio.create_task(self._deliver(delivery, webhook), name=f"deliver {delivery.id}")
            under_way.tasks[delivery.id] = task

    async def _deliver(self, delivery: Delivery, webhook: Webhook) -> None:
        """Send and record. What cannot be recorded stays due."""
        try:
            posted = await self._post(delivery, webhook)
            tried = self._after(delivery, posted)
            await self._record(tried, webhook)
        except TerpError as error:
            _log.warning("delivery_not_recorded", delivery=delivery.id, error=error.code, context=error.context)
            await self._clock.wait(self._never, RETRY_AFTER_S)  # not at once: it would be sent again and again
        except Exception:  # noqa: BLE001 - a bug: logged, and the others go on
            _log.exception("delivery_died", delivery=delivery.id)
            await self._clock.wait(self._never, RETRY_AFTER_S)
        finally:
            del self._under_way.tasks[delivery.id]
            self._under_way.done.add(delivery.id)
            self._under_way.of_tenant[webhook.tenant] -= 1
            self._bell.set()

    async def _post(self, delivery: Delivery, webhook: Webhook) -> Posted:
        try:
            secret = signing_secret(self._keys.unwrap(webhook.sealed_secret, webhook.id))
        except TerpError as error:  # the server's key that wrapped it is not here
            _log.error("webhook_secret_lost", webhook=webhook.id, error=error.code, context=error.context)
            return Posted(
                error="The webhook's secret cannot be opened by this server; delete it and create another one"
            )
        headers = {
            "X-Orkestr-Event": delivery.type.value,
            "X-Orkestr-Delivery": delivery.id,
            "X-Orkestr-Signature": signature(secret, delivery.body),
        }
        return await self._courier.post(webhook.url, delivery.body, headers)

    def _after(self, delivery: Delivery, posted: Posted) -> Delivery:
        now = self._clock.now()
        tried = replace(delivery, tries=delivery.tries + 1, response_status=posted.status, error=None)
        if posted.status is not None and 200 <= posted.status < 300:
            return replace(tried, status=DeliveryStatus.DELIVERED, finished_at=now)
        tried = replace(tried, error=posted.error or f"The host answered with status {posted.status}, not 2xx")
        if tried.tries <= RETRIES:
            return replace(tried, next_try_at=now + dt.timedelta(seconds=RETRY_AFTER_S))
        return replace(tried, status=DeliveryStatus.FAILED, finished_at=now)

    async def _record(self, tried: Delivery, webhook: Webhook) -> None:
        switched_off = await self._store.record_delivery(tried, max_failures=MAX_FAILURES)
        self.outcomes["retried" if tried.status is DeliveryStatus.PENDING else tried.status.value] += 1
        if switched_off:
            _log.warning("webhook_switched_off", webhook=webhook.id, tenant=webhook.tenant, error=tried.error)
