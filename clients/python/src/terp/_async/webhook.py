"""Webhooks: what happens to sandboxes, told to an address of yours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from terp._async.client import AsyncTerp
from terp._async.default import default_client
from terp.models import Delivery, WebhookInfo
from terp.protocol import account


class AsyncWebhook:
    """
    An address that is told of events, e.g. `sandbox.created`, `sandbox.expired`, `volume.moved`.

        webhook = await AsyncWebhook.create("https://example.com/hook", ["sandbox.terminated"])
        print(webhook.secret)  # keep it: it is told only here

    Each event is sent at least once, with an id that stays the same in all tries; `terp.verify_webhook` says whether a
    request is genuine.

    Every method may raise WebhookNotFound, and what any request may: ConnectionFailed, RequestTimeout, Unauthenticated.
    """

    def __init__(self, client: AsyncTerp, info: WebhookInfo) -> None:
        self._client = client
        self._info = info

    @classmethod
    async def create(
        cls, url: str, event_types: Sequence[str] | None = None, *, client: AsyncTerp | None = None
    ) -> AsyncWebhook:
        """
        Have events told to *url*, from now on.

        Args:
            url: http or https, on a public address.
            event_types: Only those; None for all.

        Raises:
            InvalidRequest: The address is not public, or there is no such event.
            LimitExceeded: You have as many as you may.
        """
        client = client or await default_client()
        return cls(client, account.read_webhook(await client.call(account.create_webhook(url, event_types))))

    @classmethod
    async def list(cls, *, client: AsyncTerp | None = None) -> AsyncIterator[AsyncWebhook]:
        """Yield the webhooks of this key's tenant."""
        client = client or await default_client()
        for info in account.read_webhooks(await client.call(account.list_webhooks())):
            yield cls(client, info)

    async def enable(self) -> None:
        """Switch it on again after too many failures, and forget these."""
        self._info = account.read_webhook(await self._client.call(account.enable_webhook(self.id)))

    async def delete(self) -> None:
        """Tell it nothing more."""
        await self._client.call(account.delete_webhook(self.id))

    async def deliveries(self) -> tuple[Delivery, ...]:
        """Return what it was told last and how that went, newest first."""
        return tuple(account.read_deliveries(await self._client.call(account.list_deliveries(self.id))))

    # ---- what the server said last ----

    @property
    def info(self) -> WebhookInfo:
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def url(self) -> str:
        return self._info.url

    @property
    def active(self) -> bool:
        return self._info.active

    @property
    def secret(self) -> str | None:
        """What its deliveries are signed with; None unless it was just created."""
        return self._info.secret

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.url}>"
