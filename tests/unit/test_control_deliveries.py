"""Deliveries: what is sent, when again, and whom a slow receiver does not hold up."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.api import KEYS
from support.clock import FakeClock
from support.couriers import Post, RecordingCourier
from support.sandboxes import NOON, TENANT
from support.until import until

from terpd.control.deliveries import OF_WEBHOOK, Deliveries
from terpd.control.webhooks import CHECKS_OF_TENANT, Webhooks, signature
from terpd.model.errors import InvalidRequest, LimitExceeded, Unavailable
from terpd.model.ids import TenantId
from terpd.model.ports import Posted
from terpd.model.webhook import (
    MAX_FAILURES,
    MAX_WEBHOOKS,
    RETRIES,
    RETRY_AFTER_S,
    Delivery,
    DeliveryStatus,
    Event,
    EventType,
    Webhook,
)
from terpd.sealing.keyring import KeyRing
from terpd.store import SqliteStore, open_sqlite


@dataclass
class Stage:
    """A store and what delivers from it; `begin` starts another life of it."""

    store: SqliteStore
    clock: FakeClock = field(default_factory=FakeClock)
    courier: RecordingCourier = field(default_factory=RecordingCourier)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.webhooks = Webhooks(self.store, self.courier, KEYS, self.clock)

    def begin(self, keys: KeyRing = KEYS, store: SqliteStore | None = None) -> Deliveries:
        deliveries = Deliveries(store or self.store, self.courier, keys, self.clock)
        self.running.append(asyncio.create_task(deliveries.run()))
        return deliveries

    async def end(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.running.clear()

    async def hook(self, url: str = "https://example.com/hook", tenant: TenantId = TENANT) -> tuple[Webhook, str]:
        return await self.webhooks.create(tenant, url, None)

    async def happens(self, times: int = 1, tenant: TenantId = TENANT) -> None:
        for _ in range(times):
            await self.store.add_event(Event(EventType.VOLUME_MOVED, tenant, self.clock.now(), {}))

    async def log(self, webhook: Webhook) -> list[Delivery]:
        return list(await self.store.list_deliveries(webhook.tenant, webhook.id, limit=100))

    async def until_log(self, webhook: Webhook, *statuses: DeliveryStatus) -> list[Delivery]:
        """Wait until the deliveries have these statuses, newest first."""
        while True:
            found = await self.log(webhook)
            if [each.status for each in found] == list(statuses):
                return found
            self.clock.advance(0.5)
            await asyncio.sleep(0.005)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = await open_sqlite(tmp_path / "terp.db")
    stage = Stage(store)
    yield stage
    await stage.end()
    await store.close()


def test_signature_as_clients_verify_it() -> None:
    """The published vector: the key is the whole secret."""
    assert (
        signature("whsec_test", b'{"a":1}') == "sha256=51426af50a41dd7ff2cd3f116594734766d4018d15d6fb07169aee5d2959adf5"
    )


async def test_one_event(stage: Stage) -> None:
    """The body as recorded, signed with the secret that was shown once; the log says how it went."""
    webhook, secret = await stage.hook()
    assert secret.startswith("whsec_")
    await stage.happens()
    ((recorded, _),) = await stage.store.due_deliveries(stage.clock.now(), of_one=9, limit=9)
    deliveries = stage.begin()
    (delivery,) = await stage.until_log(webhook, DeliveryStatus.DELIVERED)
    (post,) = stage.courier.posts
    assert post == Post(
        webhook.url,
        recorded.body,
        {
            "X-Orkestr-Event": "volume.moved",
            "X-Orkestr-Delivery": delivery.id,
            "X-Orkestr-Signature": signature(secret, recorded.body),
        },
    )
    assert (delivery.tries, delivery.response_status, delivery.error) == (1, 204, None)
    await until(lambda: deliveries.outcomes == {"delivered": 1})


@pytest.mark.parametrize("answer", [Posted(500), Posted(301), Posted(199), Posted(error="no")])
async def test_failed_one_is_tried_again(stage: Stage, answer: Posted) -> None:
    """Three times more, 10 s apart, the same body under the same id; then it has failed."""
    stage.courier.answer = lambda _: answer
    webhook, _ = await stage.hook()
    await stage.happens()
    deliveries = stage.begin()
    for tries in range(1, RETRIES + 1):
        await until(lambda tries=tries: len(stage.courier.posts) == tries)
        await until(lambda tries=tries: deliveries.outcomes["retried"] == tries)
        (delivery,) = await stage.log(webhook)
        assert delivery.next_try_at - stage.clock.now() == dt.timedelta(seconds=RETRY_AFTER_S)
        stage.clock.advance(RETRY_AFTER_S - 1)
        await asyncio.sleep(0.02)
        assert len(stage.courier.posts) == tries
        stage.clock.advance(1)
    (delivery,) = await stage.until_log(webhook, DeliveryStatus.FAILED)
    assert len(stage.courier.posts) == RETRIES + 1
    assert len({(post.body, post.headers["X-Orkestr-Delivery"]) for post in stage.courier.posts}) == 1
    assert delivery.tries == RETRIES + 1
    assert delivery.error == (answer.error or f"The host answered with status {answer.status}, not 2xx")
    (found,) = await stage.webhooks.list(TENANT)
    assert (found.failures, found.last_error, found.active) == (1, delivery.error, True)


async def test_twenty_failures_switch_it_off(stage: Stage) -> None:
    """Those behind are not sent any more; what comes when it is on again is."""
    stage.courier.answer = lambda _: Posted(500)
    webhook, _ = await stage.hook()
    await stage.happens(MAX_FAILURES + 1)
    stage.begin()
    await stage.until_log(webhook, *[DeliveryStatus.FAILED] * (MAX_FAILURES + 1))
    (found,) = await stage.webhooks.list(TENANT)
    assert (found.active, found.failures) == (False, MAX_FAILURES)
    stage.courier.answer = lambda _: Posted(200)
    await stage.webhooks.enable(TENANT, webhook.id)
    sent = len(stage.courier.posts)
    await stage.happens()
    await stage.until_log(webhook, DeliveryStatus.DELIVERED, *[DeliveryStatus.FAILED] * (MAX_FAILURES + 1))
    assert len(stage.courier.posts) == sent + 1


async def test_slow_one_holds_up_its_own_alone(stage: Stage) -> None:
    """It has so many under way; another's arrive meanwhile, and the rest of its own after."""
    gate = asyncio.Event()

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        stage.courier.posts.append(Post(url, body, headers))
        if "slow" in url:
            await gate.wait()
        return Posted(200)

    stage.courier.post = post  # type: ignore[method-assign]
    slow, _ = await stage.hook("https://slow.example/")
    await stage.happens(5)
    quick, _ = await stage.hook("https://quick.example/", TenantId("other"))
    await stage.happens(5, TenantId("other"))
    stage.begin()
    await stage.until_log(quick, *[DeliveryStatus.DELIVERED] * 5)
    assert sum("slow" in post.url for post in stage.courier.posts) == OF_WEBHOOK
    gate.set()
    await stage.until_log(slow, *[DeliveryStatus.DELIVERED] * 5)
    assert len(stage.courier.posts) == 10


async def test_killed_between_send_and_record(stage: Stage) -> None:
    """The next life sends it again, under the same id."""
    sent = asyncio.Event()

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        stage.courier.posts.append(Post(url, body, headers))
        if not sent.is_set():
            sent.set()
            await asyncio.Event().wait()
        return Posted(200)

    stage.courier.post = post  # type: ignore[method-assign]
    webhook, _ = await stage.hook()
    await stage.happens()
    stage.begin()
    await sent.wait()
    await stage.end()
    stage.begin()
    await stage.until_log(webhook, DeliveryStatus.DELIVERED)
    first, second = stage.courier.posts
    assert first == second


async def test_deleted_while_under_way(stage: Stage) -> None:
    """Its outcome is nobody's."""
    gate, sent = asyncio.Event(), asyncio.Event()

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        sent.set()
        await gate.wait()
        return Posted(500)

    stage.courier.post = post  # type: ignore[method-assign]
    webhook, _ = await stage.hook()
    await stage.happens()
    deliveries = stage.begin()
    await sent.wait()
    await stage.webhooks.delete(TENANT, webhook.id)
    gate.set()
    await until(lambda: deliveries.outcomes["retried"])
    assert await stage.webhooks.list(TENANT) == []


async def test_secret_that_does_not_open(stage: Stage) -> None:
    """Without the server's key it fails, saying so, and nothing unsigned is sent."""
    webhook, _ = await stage.hook()
    await stage.happens()
    deliveries = stage.begin(KeyRing([b"x" * 32]))
    await until(lambda: deliveries.outcomes["retried"] == 1)
    (delivery,) = await stage.log(webhook)
    assert "secret cannot be opened" in (delivery.error or "")
    assert stage.courier.posts == []


async def test_store_is_away(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be recorded is sent again, but not at once."""
    webhook, _ = await stage.hook()
    await stage.happens()
    record = SqliteStore.record_delivery
    away = [True]

    async def record_delivery(self: SqliteStore, delivery: Delivery, *, max_failures: int) -> bool:
        if away:
            raise Unavailable("away")
        return await record(self, delivery, max_failures=max_failures)

    monkeypatch.setattr(SqliteStore, "record_delivery", record_delivery)
    stage.begin()
    await until(lambda: len(stage.courier.posts) == 1)
    stage.clock.advance(1)
    await asyncio.sleep(0.02)
    assert len(stage.courier.posts) == 1
    away.clear()
    await stage.until_log(webhook, DeliveryStatus.DELIVERED)
    assert len(stage.courier.posts) == 2


async def test_pruning(stage: Stage) -> None:
    """Finished ones go after a week."""
    webhook, _ = await stage.hook()
    await stage.happens()
    deliveries = stage.begin()
    await stage.until_log(webhook, DeliveryStatus.DELIVERED)
    assert await deliveries.prune() == 0
    stage.clock.advance(8 * 86400)
    pruning = asyncio.create_task(deliveries.run_pruning())
    await stage.until_log(webhook)
    pruning.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pruning


@pytest.mark.parametrize("types", [[], ["sandbox.exploded"], ["sandbox.created", ""]])
async def test_events_that_are_none(stage: Stage, types: list[str]) -> None:
    """Refused, and what there is is named."""
    with pytest.raises(InvalidRequest, match="event"):
        await stage.webhooks.create(TENANT, "https://example.com/", types)
    assert await stage.webhooks.list(TENANT) == []


async def test_events_that_are_asked_for(stage: Stage) -> None:
    """Each once."""
    webhook, _ = await stage.webhooks.create(TENANT, "https://example.com/", ["sandbox.paused", "sandbox.paused"])
    assert webhook.event_types == (EventType.SANDBOX_PAUSED,)
    assert webhook.created_at == NOON


async def test_no_address_is_checked_above_the_limit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can have no more webhooks has no names looked up."""
    for _ in range(MAX_WEBHOOKS):
        await stage.hook()
    checked: list[str] = []

    async def check(url: str) -> None:
        checked.append(url)

    monkeypatch.setattr(stage.courier, "check", check)
    with pytest.raises(LimitExceeded) as refused:
        await stage.hook()
    assert refused.value.fields == {"limit": MAX_WEBHOOKS}
    assert checked == []
    await stage.hook(tenant=TenantId("other"))
    assert len(checked) == 1


async def test_addresses_of_a_tenant_are_checked_a_few_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for their turn, another tenant's do not; nothing is kept of who is done."""
    gate = asyncio.Event()
    under_way: list[str] = []

    async def check(url: str) -> None:
        under_way.append(url)
        await gate.wait()
        if "bad" in url:
            raise InvalidRequest("no")

    monkeypatch.setattr(stage.courier, "check", check)

    async def hook(url: str, tenant: TenantId = TENANT) -> None:
        with contextlib.suppress(InvalidRequest):
            await stage.hook(url, tenant)

    mine = [asyncio.create_task(hook(f"https://{name}.example/")) for name in ("bad", "b", "c", "d")]
    await until(lambda: len(under_way) == CHECKS_OF_TENANT)
    theirs = asyncio.create_task(hook("https://theirs.example/", TenantId("other")))
    await until(lambda: "https://theirs.example/" in under_way)
    assert len(under_way) == CHECKS_OF_TENANT + 1
    gate.set()
    await asyncio.gather(*mine, theirs)
    assert len(under_way) == 5
    assert len(await stage.webhooks.list(TENANT)) == 3
    assert not stage.webhooks._checks
