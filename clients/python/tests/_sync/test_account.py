# Generated from tests/_async/test_account.py by tools/sync.py: change that one.
"""Volumes, webhooks, metrics, usage."""

from __future__ import annotations

import datetime as dt

import pytest

from terp import (
    AlreadyExists,
    BadReply,
    InvalidRequest,
    Sandbox,
    Terp,
    Volume,
    VolumeInUse,
    VolumeNotFound,
    Webhook,
    usage,
    verify_webhook,
)

VOLUME = {
    "id": "vol_1",
    "name": "models",
    "size_mb": 20480,
    "status": "available",
    "region": "local",
    "node_id": None,
    "attached_sandbox_id": None,
    "max_lifetime_days": None,
    "max_lifetime_hours": 2,
    "expires_at": "2026-01-01T02:00:00Z",
    "created_at": "2026-01-01T00:00:00Z",
}
WEBHOOK = {
    "id": "wh_1",
    "url": "https://example.com/hook",
    "event_types": ["sandbox.created"],
    "active": True,
    "consecutive_failures": 0,
    "last_delivery_at": None,
    "last_error": None,
    "created_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def client(server):
    with Terp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        yield client


def test_volume_is_made(server, client):
    """What is not given is left to the server."""
    server.reply(201, VOLUME)
    server.reply(201, VOLUME)

    volume = Volume.create("models", client=client)
    assert server.sent() == {"name": "models", "size_gb": 10}
    Volume.create("models", 0.5, max_lifetime_hours=2, region="local", client=client)
    assert server.sent() == {"name": "models", "size_gb": 0.5, "max_lifetime_hours": 2, "region": "local"}

    assert (volume.id, volume.name, volume.size_mb, volume.status) == ("vol_1", "models", 20480, "available")
    assert volume.info.expires_at == dt.datetime(2026, 1, 1, 2, tzinfo=dt.timezone.utc)


def test_volume_is_found_by_id_or_name(server, client):
    """A name that is not there is an error like an id that is not."""
    server.reply(200, VOLUME)
    server.reply(200, {"volumes": [{**VOLUME, "name": "other"}, VOLUME]})
    server.reply(200, {"volumes": [VOLUME]})
    server.reply(200, {"volumes": [VOLUME]})

    assert Volume.get("vol_1", client=client).name == "models"
    assert Volume.get("models", client=client).name == "models"
    with pytest.raises(VolumeNotFound):
        Volume.get("missing", client=client)
    assert [volume.id for volume in Volume.list(client=client)] == ["vol_1"]
    assert server.calls[:2] == ["GET /v1/sandboxes/volumes/vol_1", "GET /v1/sandboxes/volumes"]


def test_volume_is_changed_moved_deleted(server, client):
    """None takes a lifetime away; exactly one is to be given."""
    server.reply(200, VOLUME)
    volume = Volume.get("vol_1", client=client)
    server.reply(200, {**VOLUME, "max_lifetime_hours": None})
    server.reply(200, {**VOLUME, "region": "eu"})
    server.reply(409, {"detail": "held", "code": "volume_in_use", "sandbox_id": "sbx_1"})
    server.reply(204)

    volume.update(max_lifetime_days=None)
    assert server.sent() == {"max_lifetime_days": None}
    with pytest.raises(InvalidRequest):
        volume.update()
    volume.move("eu")
    assert (server.sent(), volume.info.region) == ({"region": "eu"}, "eu")
    with pytest.raises(VolumeInUse) as caught:
        volume.delete()
    volume.delete()

    assert caught.value.sandbox_id == "sbx_1"


def test_sandbox_is_created_with_a_volume(server, client):
    """By itself, its name, or its id."""
    server.reply(200, VOLUME)
    volume = Volume.get("vol_1", client=client)
    server.reply(201, {**server.sandbox, "volume": "models"})
    server.reply(201, server.sandbox)

    sandbox = Sandbox.create(volume=volume, client=client)
    assert (server.sent()["volume"], sandbox.info.volume) == ("vol_1", "models")
    Sandbox.create(volume="models", region="local", client=client)
    assert (server.sent()["volume"], server.sent()["region"]) == ("models", "local")


def test_name_that_is_taken(server, client):
    """Is an error of its own."""
    server.reply(409, {"detail": "taken", "code": "already_exists"})

    with pytest.raises(AlreadyExists):
        Volume.create("models", client=client)


def test_webhooks(server, client):
    """The secret is told once, and in no repr."""
    server.reply(201, {**WEBHOOK, "secret": "whsec_1"})
    server.reply(200, {"webhooks": [{**WEBHOOK, "event_types": None, "active": False}]})
    server.reply(200, WEBHOOK)
    delivery = {"id": "d1", "type": "sandbox.created", "status": "failed", "created_at": "2026-01-01T00:00:00Z"}
    server.reply(200, {"deliveries": [{**delivery, "tries": 4, "response_status": 500, "error": "HTTP 500"}]})
    server.reply(204)

    webhook = Webhook.create("https://example.com/hook", ["sandbox.created"], client=client)
    assert server.sent() == {"url": "https://example.com/hook", "event_types": ["sandbox.created"]}
    assert webhook.secret == "whsec_1"
    assert "whsec_1" not in repr(webhook) + repr(webhook.info)
    (found,) = [each for each in Webhook.list(client=client)]
    assert (found.active, found.secret, found.info.event_types) == (False, None, None)
    found.enable()
    assert found.active
    (failed,) = found.deliveries()
    assert (failed.tries, failed.response_status, failed.finished_at) == (4, 500, None)
    found.delete()
    assert server.calls[-1] == "DELETE /v1/sandboxes/webhooks/wh_1"


def test_event_types_are_a_list(client):
    """A text is one that was meant to be."""
    with pytest.raises(InvalidRequest, match="list"):
        Webhook.create("https://example.com", "sandbox.created", client=client)


def test_signature_of_a_delivery():
    """The published vector; anything else is refused, whatever it is made of."""
    good = "sha256=51426af50a41dd7ff2cd3f116594734766d4018d15d6fb07169aee5d2959adf5"

    assert verify_webhook(b'{"a":1}', good, "whsec_test")
    assert verify_webhook('{"a":1}', good, "whsec_test")
    for body, signature, secret in (
        (b'{"a":2}', good, "whsec_test"),
        (b'{"a":1}', good, "test"),
        (b'{"a":1}', "", "whsec_test"),
        (b'{"a":1}', "sha256=ä", "whsec_test"),
        (b'{"a":1}', good.upper(), "whsec_test"),
    ):
        assert not verify_webhook(body, signature, secret)


def test_metrics(server, client):
    """Now, and in all; nothing now unless it runs."""
    server.reply(201, server.sandbox)
    sandbox = Sandbox.create(client=client)
    body = {
        "sandbox_id": sandbox.id,
        "sandbox_status": "running",
        "as_of": "2026-01-01T00:00:10Z",
        "cpu": {"cores": 2, "usage_cores": 0.5, "usage_percent": 25.0},
        "memory": {"limit_bytes": 1000, "usage_bytes": 500, "usage_percent": 50.0},
        "lifetime": {"cpu_seconds": 1.5, "gb_seconds": 2.5},
        "samples": [{"t": "2026-01-01T00:00:09Z", "cpu_percent": 20.0, "mem_bytes": 400}],
    }
    idle = {"cores": 2, "usage_cores": None, "usage_percent": None}
    server.reply(200, body)
    server.reply(200, {**body, "cpu": idle, "samples": []})
    server.reply(200, {})

    metrics = sandbox.metrics(since=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc))
    paused = sandbox.metrics()
    with pytest.raises(BadReply):
        sandbox.metrics()

    assert server.calls[1].endswith("/metrics?since=1767225600")
    assert (metrics.cores_used, metrics.cpu_percent, metrics.memory_bytes, metrics.cpu_seconds) == (0.5, 25.0, 500, 1.5)
    assert [sample.cpu_percent for sample in metrics.samples] == [20.0]
    assert (paused.cores_used, paused.samples) == (None, ())


def test_usage(server, client):
    """By day, and in all; days and times are both taken."""
    day = {"day": "2026-01-01", "cpu_seconds": 1.0, "gb_seconds": 2.0}
    for _ in range(2):
        server.reply(200, {"days": [day], "total": {"cpu_seconds": 1.0, "gb_seconds": 2.0}})

    used = client.usage(since=dt.date(2026, 1, 1))
    usage(None, dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), client=client)

    assert [(each.day, each.cpu_seconds) for each in used.days] == [(dt.date(2026, 1, 1), 1.0)]
    assert used.gb_seconds == 2.0
    assert server.calls == [
        "GET /v1/usage?since=2026-01-01",
        "GET /v1/usage?until=2026-01-02",
    ]
