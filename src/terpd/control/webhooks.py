"""A tenant's webhooks: made, listed, switched on again, deleted; and what was sent to them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Sequence
from weakref import WeakValueDictionary

from terpd.control.clock import Clock
from terpd.model.errors import InvalidRequest, LimitExceeded
from terpd.model.ids import TenantId, WebhookId, new_webhook_id
from terpd.model.ports import Courier, Store
from terpd.model.webhook import MAX_WEBHOOKS, Delivery, EventType, Webhook
from terpd.sealing.keyring import KeyRing

MAX_DELIVERIES = 200  # of one answer
CHECKS_OF_TENANT = 2  # at the same time: each one looks up a name that the tenant chose


class Webhooks:
    def __init__(self, store: Store, courier: Courier, keys: KeyRing, clock: Clock) -> None:
        self._store = store
        self._courier = courier
        self._keys = keys
        self._clock = clock
        self._checks: WeakValueDictionary[TenantId, asyncio.Semaphore] = WeakValueDictionary()  # of those that wait

    async def create(self, tenant: TenantId, url: str, event_types: Sequence[str] | None) -> tuple[Webhook, str]:
        """
        Return the webhook and its signing secret, which is not shown again.

        Args:
            event_types: None: all, also those that a later release adds.

        Raises:
            InvalidRequest: There is no such event, or the address cannot be posted to; says why.
            LimitExceeded: The tenant has `MAX_WEBHOOKS`.
        """
        wanted = None if event_types is None else _event_types(event_types)
        await self._check(tenant, url)
        webhook_id = new_webhook_id()
        key = self._keys.new_data_key(webhook_id)
        webhook = Webhook(
            id=webhook_id,
            tenant=tenant,
            url=url,
            event_types=wanted,
            active=True,
            created_at=self._clock.now(),
            sealed_secret=key.sealed,
        )
        await self._store.add_webhook(webhook, max_webhooks=MAX_WEBHOOKS)
        return webhook, signing_secret(key.secret)

    async def _check(self, tenant: TenantId, url: str) -> None:
        turn = self._checks.setdefault(tenant, asyncio.Semaphore(CHECKS_OF_TENANT))  # kept while somebody has it here
        async with turn:
            # Again, and bindingly, when it is recorded: who can have no more is not to have names looked up either.
            if len(await self._store.list_webhooks(tenant)) >= MAX_WEBHOOKS:
                raise LimitExceeded(
                    f"There may be {MAX_WEBHOOKS} webhooks; delete one first", fields={"limit": MAX_WEBHOOKS}
                )
            await self._courier.check(url)

    async def list(self, tenant: TenantId) -> Sequence[Webhook]:
        """Newest first."""
        return await self._store.list_webhooks(tenant)

    async def enable(self, tenant: TenantId, webhook_id: WebhookId) -> Webhook:
        """Switch it on, its failures forgotten. Idempotent. Raises WebhookNotFound."""
        return await self._store.enable_webhook(tenant, webhook_id)

    async def delete(self, tenant: TenantId, webhook_id: WebhookId) -> None:
        """With what is still to be sent to it, and its secret. Idempotent."""
        await self._store.delete_webhook(tenant, webhook_id)

    async def deliveries(self, tenant: TenantId, webhook_id: WebhookId, limit: int) -> Sequence[Delivery]:
        """
        Newest first, those that wait included.

        Raises:
            InvalidRequest: *limit* is not 1 to `MAX_DELIVERIES`.
            WebhookNotFound.
        """
        if not 1 <= limit <= MAX_DELIVERIES:
            raise InvalidRequest(f"limit must be 1 to {MAX_DELIVERIES}, not: {limit}")
        return await self._store.list_deliveries(tenant, webhook_id, limit=limit)


def signing_secret(key: bytes) -> str:
    """The text that clients verify with, of the bytes that are kept."""
    return f"whsec_{base64.urlsafe_b64encode(key).decode().rstrip('=')}"


def signature(secret: str, body: bytes) -> str:
    """HMAC-SHA256 of the body as it is sent; the key is the secret's text, its prefix included."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def _event_types(names: Sequence[str]) -> Sequence[EventType]:
    if not names:
        raise InvalidRequest("event_types must name at least one event; leave it out for all")
    known = {each.value: each for each in EventType}
    for name in names:
        if name not in known:
            raise InvalidRequest(f"There is no such event: {name[:64]}; there are: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))
