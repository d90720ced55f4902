"""Cases: webhooks, with a receiver of this very process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from orkestr import APIError, OrkestrClient, Sandbox, SandboxNotFound, Webhook, verify_webhook_signature

from expect import eventually, raises


class _Receiver(ThreadingHTTPServer):
    """Keeps what arrives, as (headers, body); answers the first ones with `answers`, then 200."""

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.posts: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def of(self, sandbox: Sandbox) -> list[dict[str, Any]]:
        """What arrived about one sandbox: events of others that this tenant has come here, too."""
        bodies = [json.loads(body) for _, body in self.posts]
        return [body for body in bodies if body["sandbox"]["id"] == sandbox.id]


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((dict(self.headers), body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _receiver(*answers: int) -> Iterator[_Receiver]:
    with _Receiver(*answers) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextmanager
def _webhook(url: str, *types: str) -> Iterator[Webhook]:
    hook = Webhook.create(url, event_types=list(types) or None)
    try:
        yield hook
    finally:
        Webhook.delete(hook.id)


def describes_itself() -> None:
    """The secret comes once, with the create."""
    with _webhook("http://127.0.0.1:9/", "volume.moved") as hook:
        assert hook.secret is not None
        assert hook.secret.startswith("whsec_")
        assert (hook.url, hook.event_types, hook.active) == ("http://127.0.0.1:9/", ["volume.moved"], True)
        assert (hook.consecutive_failures, hook.last_delivery_at, hook.last_error) == (0, None, None)
        (found,) = [each for each in Webhook.list() if each.id == hook.id]
        assert found.secret is None
        assert found.created_at == hook.created_at
        assert Webhook.enable(hook.id).active
    assert hook.id not in {each.id for each in Webhook.list()}
    Webhook.delete(hook.id)
    raises(SandboxNotFound, lambda: Webhook.enable(hook.id))


def events_of_a_life() -> None:
    """Each arrives, signed so that the client's own check accepts it, and no changed body does."""
    with _receiver() as receiver, _webhook(receiver.url) as hook:
        assert hook.secret is not None
        sbx = Sandbox.create(template="debian-12", metadata={"user": "42"})
        sbx.pause()
        Sandbox.resume(sbx.id)
        sbx.terminate()
        kinds = {"sandbox.created", "sandbox.paused", "sandbox.resumed", "sandbox.terminated"}
        eventually(lambda: {event["type"] for event in receiver.of(sbx)} == kinds)
        assert all(event["sandbox"]["metadata"] == {"user": "42"} for event in receiver.of(sbx))
        for headers, body in receiver.posts:
            signature = headers["X-Orkestr-Signature"]
            assert verify_webhook_signature(hook.secret, body, signature)
            assert not verify_webhook_signature(hook.secret, body + b" ", signature)
            assert headers["X-Orkestr-Event"] == json.loads(body)["type"]
        ids = [headers["X-Orkestr-Delivery"] for headers, _ in receiver.posts]
        assert len(ids) == len(set(ids))


def expiry_is_its_own_event() -> None:
    """A lease that ends is told of as such, and only what is asked for is sent."""
    with _receiver() as receiver, _webhook(receiver.url, "sandbox.expired"):
        with Sandbox.create(template="debian-12", timeout_seconds=10) as sbx:
            eventually(lambda: receiver.of(sbx))
        assert [event["type"] for event in receiver.of(sbx)] == ["sandbox.expired"]


def failed_delivery_is_retried() -> None:
    """The same body under the same id, and then the webhook is as if nothing had been."""
    with _receiver(500) as receiver, _webhook(receiver.url, "sandbox.created") as hook:
        with Sandbox.create(template="debian-12") as sbx:
            eventually(lambda: len(receiver.of(sbx)) == 2)
        (first, body), (second, again) = receiver.posts[:2]
        assert first["X-Orkestr-Delivery"] == second["X-Orkestr-Delivery"]
        assert body == again
        eventually(lambda: next(each for each in Webhook.list() if each.id == hook.id).last_delivery_at)


def refused() -> None:
    """What is no address, and events that there are not."""
    for url in ("", "example.com", "ftp://example.com/", "http://user:pw@example.com/"):
        assert raises(APIError, lambda url=url: Webhook.create(url)).status_code == 422
    assert raises(APIError, lambda: Webhook.create("http://127.0.0.1:9/", event_types=["x"])).status_code == 422
    for bad in ("nonsense", "wh_01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        raises(SandboxNotFound, lambda bad=bad: Webhook.enable(bad))


def private_address(capped: dict[str, Any]) -> None:
    """A server that was not told otherwise posts to public hosts only."""
    client = OrkestrClient(**capped)
    for url in ("http://127.0.0.1:9/", "http://169.254.169.254/", "http://[::1]/", "http://localhost/"):
        assert raises(APIError, lambda url=url: Webhook.create(url, client=client)).status_code == 422
    assert Webhook.list(client=client) == []


def other_tenants_webhook(keys: dict[str, str]) -> None:
    """It does not exist, and a deletion leaves it."""
    stranger = OrkestrClient(api_key=keys["stranger"])
    with _webhook("http://127.0.0.1:9/", "volume.moved") as hook:
        assert Webhook.list(client=stranger) == []
        raises(SandboxNotFound, lambda: Webhook.enable(hook.id, client=stranger))
        Webhook.delete(hook.id, client=stranger)
        assert hook.id in {each.id for each in Webhook.list()}
