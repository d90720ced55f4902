"""What every Store promises of webhooks and of usage."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pytest
from support.sandboxes import NOON, TENANT, make_sandbox

from terpd.model.errors import LimitExceeded, PlanLimit, SandboxNotFound, WebhookNotFound
from terpd.model.ids import TenantId, new_sandbox_id, new_webhook_id
from terpd.model.ports import Change, Store
from terpd.model.sandbox import EndReason, Sandbox, Status
from terpd.model.usage import MachineTotal, Usage
from terpd.model.webhook import MAX_PENDING, Delivery, DeliveryStatus, Event, EventType, Webhook

OTHER = TenantId("other")
LATER = NOON + dt.timedelta(seconds=5)
DAY = NOON.date()


async def hooked(store: Store, *types: EventType, tenant: TenantId = TENANT, active: bool = True) -> Webhook:
    webhook = Webhook(
        id=new_webhook_id(),
        tenant=tenant,
        url="https://example.com/hook",
        event_types=types or None,
        active=active,
        created_at=NOON,
        sealed_secret=b"sealed",
    )
    await store.add_webhook(webhook, max_webhooks=100)
    return webhook


async def recorded(store: Store, status: Status, **fields: object) -> Sandbox:
    sandbox = replace(make_sandbox(status=status), **fields)  # type: ignore[arg-type]
    await store.add_sandbox(sandbox, max_live=None)
    return sandbox


async def due(store: Store, now: dt.datetime = LATER, of_one: int = 100) -> list[Delivery]:
    return [delivery for delivery, _ in await store.due_deliveries(now, of_one=of_one, limit=10_000)]


def happened(kind: EventType = EventType.VOLUME_MOVED, tenant: TenantId | None = TENANT) -> Event:
    return Event(kind, tenant, NOON, {"volume": {"name": "\u00fc"}})


def failed(delivery: Delivery, *, finally_: bool = True) -> Delivery:
    status = DeliveryStatus.FAILED if finally_ else DeliveryStatus.PENDING
    return replace(delivery, status=status, tries=1, error="no", finished_at=LATER if finally_ else None)


def shown(*deliveries: Delivery) -> list[Delivery]:
    """As they are listed: without their bodies."""
    return [replace(each, body=b"") for each in deliveries]


def delivered(delivery: Delivery) -> Delivery:
    return replace(delivery, status=DeliveryStatus.DELIVERED, tries=1, response_status=200, finished_at=LATER)


# ---- webhooks ----


async def test_webhook_is_read_back(store: Store) -> None:
    """As it was recorded, newest first, by its tenant alone."""
    first, second = await hooked(store), await hooked(store, EventType.SANDBOX_PAUSED)
    assert await store.list_webhooks(TENANT) == [second, first]
    assert await store.list_webhooks(OTHER) == []


async def test_number_of_webhooks_is_bounded(store: Store) -> None:
    """The one above the limit is not recorded; other tenants' do not count."""
    webhook = await hooked(store)
    await hooked(store, tenant=OTHER)
    await store.add_webhook(replace(webhook, id=new_webhook_id()), max_webhooks=2)
    with pytest.raises(LimitExceeded):
        await store.add_webhook(replace(webhook, id=new_webhook_id()), max_webhooks=2)
    assert len(await store.list_webhooks(TENANT)) == 2


async def test_only_its_tenant_reaches_a_webhook(store: Store) -> None:
    """Another's does not exist."""
    webhook = await hooked(store)
    with pytest.raises(WebhookNotFound):
        await store.enable_webhook(OTHER, webhook.id)
    with pytest.raises(WebhookNotFound):
        await store.list_deliveries(OTHER, webhook.id, limit=1)
    assert not await store.delete_webhook(OTHER, webhook.id)
    assert await store.list_webhooks(TENANT) == [webhook]


async def test_deleted_with_what_waits(store: Store) -> None:
    """Nothing of it is left, and deleting again tells so."""
    webhook = await hooked(store)
    await store.add_event(happened())
    assert await store.delete_webhook(TENANT, webhook.id)
    assert not await store.delete_webhook(TENANT, webhook.id)
    assert await due(store) == []
    assert await store.count_pending_deliveries() == 0


# ---- events ----

STEPS = [
    (Status.STARTING, Status.RUNNING, None, EventType.SANDBOX_CREATED),
    (Status.RUNNING, Status.PAUSING, None, None),
    (Status.PAUSING, Status.PAUSED, None, EventType.SANDBOX_PAUSED),
    (Status.PAUSING, Status.RUNNING, None, None),  # a pause that was undone
    (Status.PAUSED, Status.RESUMING, None, None),
    (Status.RESUMING, Status.RUNNING, None, EventType.SANDBOX_RESUMED),
    (Status.RESUMING, Status.PAUSED, None, None),  # a resume that failed
    (Status.RUNNING, Status.TERMINATED, EndReason.USER, EventType.SANDBOX_TERMINATED),
    (Status.PAUSED, Status.TERMINATED, EndReason.USER, EventType.SANDBOX_TERMINATED),
    (Status.RUNNING, Status.TERMINATED, EndReason.SHUTDOWN, EventType.SANDBOX_TERMINATED),
    (Status.RUNNING, Status.TERMINATED, EndReason.LEASE, EventType.SANDBOX_EXPIRED),
    (Status.PAUSED, Status.TERMINATED, EndReason.PAUSED_TOO_LONG, EventType.SANDBOX_EXPIRED),
    (Status.RUNNING, Status.FAILED, EndReason.MACHINE_LOST, EventType.SANDBOX_FAILED),
    (Status.STARTING, Status.FAILED, EndReason.START_FAILED, EventType.SANDBOX_FAILED),
]


@pytest.mark.parametrize(("before", "after", "reason", "event"), STEPS)
async def test_event_of_each_step(
    store: Store, before: Status, after: Status, reason: EndReason | None, event: EventType | None
) -> None:
    """Written with the change; its body names the delivery and tells of the sandbox as it is then."""
    webhook = await hooked(store)
    sandbox = await recorded(store, before, metadata={"user": "\u00fc"})

    await store.set_status(sandbox.id, after, at=LATER, change=Change(reason=reason))

    found = await due(store)
    assert [each.type for each in found] == ([event] if event else [])
    for delivery in found:
        assert delivery.webhook_id == webhook.id
        assert delivery.body.isascii()
        body = json.loads(delivery.body)
        assert body["id"] == delivery.id
        assert body["type"] == event
        assert body["created_at"] == "2026-03-01T12:00:05.123456Z"
        assert body["sandbox"]["id"] == sandbox.id
        assert body["sandbox"]["status"] == after
        assert body["sandbox"]["metadata"] == {"user": "\u00fc"}
        assert body["sandbox"]["end_reason"] == reason
        assert "env" not in body["sandbox"]


@pytest.mark.parametrize("excess", [0, 1])
async def test_large_metadata_is_left_out(store: Store, excess: int) -> None:
    """Above 8 KiB as JSON, which the body says; all else is told."""
    await hooked(store)
    metadata = {"user": "x" * (8192 - len('{"user":""}') + excess)}
    sandbox = await recorded(store, Status.STARTING, metadata=metadata)
    await store.set_status(sandbox.id, Status.RUNNING, at=LATER)
    (delivery,) = await due(store)
    told = json.loads(delivery.body)["sandbox"]
    assert (told["id"], told["status"]) == (sandbox.id, "running")
    assert told["metadata"] == (None if excess else metadata)
    assert told.get("metadata_left_out") is (True if excess else None)


async def test_children_of_a_fork_are_told_of(store: Store) -> None:
    """Each one, and none when not all of them started."""
    await hooked(store)
    one, two = await recorded(store, Status.STARTING), await recorded(store, Status.STARTING)
    gone = await recorded(store, Status.TERMINATED)
    assert await store.start_all(dict.fromkeys([one.id, gone.id], LATER), at=LATER) is None
    assert await due(store) == []
    assert await store.start_all(dict.fromkeys([one.id, two.id], LATER), at=LATER)
    assert [json.loads(each.body)["sandbox"]["id"] for each in await due(store)] == [one.id, two.id]


async def test_change_that_is_not_made_tells_nothing(store: Store) -> None:
    """Whether it is not allowed from this status or a limit undoes it."""
    await hooked(store)
    ended = await recorded(store, Status.TERMINATED)
    assert await store.set_status(ended.id, Status.RUNNING, at=LATER) is None
    paused = await recorded(store, Status.RESUMING)
    with pytest.raises(PlanLimit):
        await store.set_status(paused.id, Status.RUNNING, at=LATER, change=Change(max_on_node=0))
    assert await due(store) == []


async def test_who_is_told(store: Store) -> None:
    """Active webhooks of the tenant that ask for it; for what concerns all, of every tenant."""
    everything = await hooked(store)
    asked = await hooked(store, EventType.VOLUME_MOVED, EventType.TEMPLATE_BUILD_FINISHED)
    await hooked(store, EventType.SANDBOX_PAUSED)
    await hooked(store, active=False)
    others = await hooked(store, tenant=OTHER)
    await store.add_event(happened())
    assert {each.webhook_id for each in await due(store)} == {everything.id, asked.id}
    await store.add_event(happened(EventType.TEMPLATE_BUILD_FINISHED, tenant=None))
    found = {each.webhook_id for each in await due(store) if each.type is EventType.TEMPLATE_BUILD_FINISHED}
    assert found == {everything.id, asked.id, others.id}


async def test_waiting_deliveries_are_bounded(store: Store) -> None:
    """The oldest fail unsent, and say so."""
    webhook = await hooked(store)
    await store.add_event(happened())
    (first,) = await due(store)
    for _ in range(MAX_PENDING):
        await store.add_event(happened())
    found = await due(store, of_one=10_000)
    assert len(found) == MAX_PENDING
    assert first.id not in {each.id for each in found}
    oldest = (await store.list_deliveries(TENANT, webhook.id, limit=2000))[-1]
    assert (oldest.id, oldest.status) == (first.id, DeliveryStatus.FAILED)
    assert "not sent" in (oldest.error or "")


# ---- deliveries ----


async def test_due_ones_of_each_webhook(store: Store) -> None:
    """So many of each, oldest first, with their webhook; none before its time."""
    one, two = await hooked(store), await hooked(store, tenant=OTHER)
    for _ in range(3):
        await store.add_event(happened())
    await store.add_event(happened(tenant=OTHER))
    found = await store.due_deliveries(NOON, of_one=2, limit=10)
    assert [delivery.webhook_id for delivery, _ in found] == [one.id, one.id, two.id]
    assert [webhook for _, webhook in found] == [one, one, two]
    assert len(await store.due_deliveries(NOON, of_one=2, limit=1)) == 1
    assert await due(store, NOON - dt.timedelta(microseconds=1)) == []
    assert await store.count_pending_deliveries() == 4


async def test_try_that_failed_waits(store: Store) -> None:
    """It is due again at its time, and its webhook tells why."""
    webhook = await hooked(store)
    await store.add_event(happened())
    (delivery,) = await due(store)
    retried = replace(failed(delivery, finally_=False), next_try_at=LATER)
    assert not await store.record_delivery(retried, max_failures=20)
    assert await due(store, NOON) == []
    assert await due(store) == [retried]
    assert await store.list_webhooks(TENANT) == [replace(webhook, last_error="no")]


async def test_failures_are_counted_in_a_row(store: Store) -> None:
    """Only those after all tries; one that is delivered forgets them."""
    webhook = await hooked(store)
    for _ in range(3):
        await store.add_event(happened())
    first, second, third = await due(store)
    await store.record_delivery(failed(first), max_failures=20)
    await store.record_delivery(failed(second), max_failures=20)
    assert (await store.list_webhooks(TENANT))[0] == replace(webhook, failures=2, last_error="no")
    await store.record_delivery(delivered(third), max_failures=20)
    assert (await store.list_webhooks(TENANT))[0] == replace(webhook, last_delivery_at=LATER)
    assert await store.list_deliveries(TENANT, webhook.id, limit=2) == shown(delivered(third), failed(second))


async def test_too_many_failures_switch_it_off(store: Store) -> None:
    """What waits fails, nothing new is written, and enabling begins anew."""
    webhook = await hooked(store)
    for _ in range(3):
        await store.add_event(happened())
    first, second, third = await due(store)
    assert not await store.record_delivery(failed(first), max_failures=2)
    assert await store.record_delivery(failed(second), max_failures=2)
    assert (await store.list_webhooks(TENANT))[0].active is False
    assert await due(store) == []
    unsent = (await store.list_deliveries(TENANT, webhook.id, limit=1))[0]
    assert (unsent.id, unsent.status) == (third.id, DeliveryStatus.FAILED)
    assert "switched off" in (unsent.error or "")
    await store.add_event(happened())
    assert await store.count_pending_deliveries() == 0
    enabled = await store.enable_webhook(TENANT, webhook.id)
    assert (enabled.active, enabled.failures) == (True, 0)
    await store.add_event(happened())
    assert len(await due(store)) == 1


async def test_recording_what_is_gone_or_finished(store: Store) -> None:
    """It changes nothing: neither the outcome of another try nor a webhook's count."""
    webhook = await hooked(store)
    await store.add_event(happened())
    (delivery,) = await due(store)
    await store.record_delivery(delivered(delivery), max_failures=1)
    assert not await store.record_delivery(failed(delivery), max_failures=1)
    assert await store.list_deliveries(TENANT, webhook.id, limit=9) == shown(delivered(delivery))
    await store.delete_webhook(TENANT, webhook.id)
    assert not await store.record_delivery(failed(delivery), max_failures=1)


async def test_prune(store: Store) -> None:
    """Finished ones that are old, and those beyond the newest of a webhook; what waits stays."""
    webhook = await hooked(store)
    for _ in range(5):
        await store.add_event(happened())
    first, *rest, last = await due(store)
    for each in (first, *rest):
        await store.record_delivery(delivered(each), max_failures=1)
    assert await store.prune_deliveries(NOON, keep=10, limit=10) == 0
    assert await store.prune_deliveries(NOON, keep=3, limit=10) == 1
    assert await store.prune_deliveries(LATER + dt.timedelta(1), keep=3, limit=2) == 2
    assert await store.prune_deliveries(LATER + dt.timedelta(1), keep=3, limit=2) == 1
    assert await store.list_deliveries(TENANT, webhook.id, limit=9) == shown(last)


# ---- usage ----


async def test_usage_of_a_sandbox(store: Store) -> None:
    """The sum over its machines, each counted once however often it is recorded; it never shrinks."""
    sandbox = await recorded(store, Status.RUNNING)
    assert await store.usage(TENANT, sandbox.id) == Usage(0, 0)
    one = MachineTotal(sandbox.id, "m_1", 1_500_000, 10**9)
    two = MachineTotal(sandbox.id, "m_2", 500_000, 5 * 10**8)
    await store.add_usage([one, two], at=NOON)
    await store.add_usage([one], at=NOON)
    await store.add_usage([replace(one, cpu_us=1, memory_byte_s=2 * 10**9)], at=NOON)
    assert await store.usage(TENANT, sandbox.id) == Usage(2.0, 2.5)
    assert await store.tenant_usage(TENANT, since=DAY, until=DAY) == [(DAY, Usage(2.0, 2.5))]
    with pytest.raises(SandboxNotFound):
        await store.usage(OTHER, sandbox.id)


async def test_same_machine_twice_in_one_call(store: Store) -> None:
    """It counts once."""
    sandbox = await recorded(store, Status.RUNNING)
    total = MachineTotal(sandbox.id, "m_1", 1_000_000, 0)
    await store.add_usage([total, replace(total, cpu_us=3_000_000)], at=NOON)
    assert await store.usage(TENANT, sandbox.id) == Usage(3.0, 0)
    assert await store.tenant_usage(TENANT, since=DAY, until=DAY) == [(DAY, Usage(3.0, 0))]


async def test_usage_by_day(store: Store) -> None:
    """The difference counts for the day it was found, in UTC; tenants apart; ended ones too; the unknown are passed."""
    sandbox = await recorded(store, Status.TERMINATED)
    theirs = await recorded(store, Status.RUNNING, tenant=OTHER)
    midnight = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    total = MachineTotal(sandbox.id, "m_1", 1_000_000, 0)
    await store.add_usage([total, MachineTotal(new_sandbox_id(), "m_9", 1, 1)], at=midnight - dt.timedelta(seconds=1))
    await store.add_usage(
        [replace(total, cpu_us=4_000_000), MachineTotal(theirs.id, "m_2", 9_000_000, 0)],
        at=midnight.astimezone(dt.timezone(dt.timedelta(hours=-5))),
    )
    days = [(DAY, Usage(1.0, 0)), (DAY + dt.timedelta(1), Usage(3.0, 0))]
    assert await store.tenant_usage(TENANT, since=DAY, until=DAY + dt.timedelta(9)) == days
    assert await store.tenant_usage(TENANT, since=DAY + dt.timedelta(1), until=DAY + dt.timedelta(1)) == days[1:]
    assert await store.tenant_usage(TENANT, since=DAY + dt.timedelta(2), until=DAY + dt.timedelta(9)) == []


async def test_usage_of_many(store: Store) -> None:
    """More than one statement may take."""
    sandbox = await recorded(store, Status.RUNNING)
    await store.add_usage([MachineTotal(sandbox.id, f"m_{n}", 1_000_000, 0) for n in range(1200)], at=NOON)
    assert await store.usage(TENANT, sandbox.id) == Usage(1200.0, 0)
