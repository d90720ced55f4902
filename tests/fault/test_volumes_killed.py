"""Volumes and the death of the server or of a monitor: nobody loses one, nobody shares one, and synced data stays."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from support.consistency import assert_consistent
from support.server import Server
from support.wait import eventually
from terp import TerpError, Volume

pytestmark = pytest.mark.vm

OwnServer = Callable[..., Server]

_ROUNDS = 3


@pytest.fixture
def durable(own_server: OwnServer) -> tuple[Server, Volume]:
    """A server, and a volume with synced content."""
    server = own_server().start()
    volume = Volume.create("data", 0.25, client=server.client)
    with server.create(volume=volume.name) as sandbox:
        sandbox.exec("echo synced > /persist/kept; sync").check()
    return server, volume


@contextlib.contextmanager
def _killed_during(server: Server, act: Callable[[], object], delay_s: float) -> Iterator[None]:
    def attempt() -> None:
        with contextlib.suppress(TerpError, httpx.TransportError):
            act()

    thread = threading.Thread(target=attempt)
    thread.start()
    time.sleep(delay_s)
    server.kill()
    thread.join()
    yield
    server.start()


def _assert_usable(server: Server, volume: Volume) -> None:
    """Who holds it runs; once that has ended it can be attached, and has what was synced."""
    running = assert_consistent(server)
    volume.refresh()
    holder = volume.info.attached_sandbox_id
    assert holder is None or holder in running
    for sandbox_id in running:
        server.get(sandbox_id).terminate()
    with server.create(volume=volume.name) as sandbox:
        assert sandbox.files.read("/persist/kept") == "synced\n"
        sandbox.exec("echo more > /persist/other; sync").check()


def test_killed_during_create(durable: tuple[Server, Volume]) -> None:
    """A create that the server did not survive has the volume and runs, or has let go of it."""
    server, volume = durable
    moments = random.Random("create")

    def create() -> None:
        with server.http() as http:
            http.post("/v1/sandboxes", json={"template": "debian-12", "volume": "data"})

    for _ in range(_ROUNDS):
        with _killed_during(server, create, moments.uniform(0.0, 1.5)):
            pass
        _assert_usable(server, volume)


def test_killed_during_terminate(durable: tuple[Server, Volume]) -> None:
    """The volume is free once its machine is gone, and never while it is not."""
    server, volume = durable
    moments = random.Random("terminate")
    for _ in range(_ROUNDS):
        victim = server.create(volume=volume.name)
        with _killed_during(server, victim.terminate, moments.uniform(0.0, 0.4)):
            pass
        _assert_usable(server, volume)


def test_killed_during_move_and_delete(durable: tuple[Server, Volume]) -> None:
    """A move is done or not begun; a deleted volume leaves nothing behind."""
    server, volume = durable
    with _killed_during(server, lambda: volume.move("local"), 0.02):
        pass
    eventually(lambda: Volume.get(volume.id, client=server.client).status in {"available", "stored"})
    _assert_usable(server, volume)
    with _killed_during(server, volume.delete, 0.01):
        pass
    with contextlib.suppress(TerpError):
        volume.delete()
    eventually(lambda: not (server.data_dir / "volumes" / volume.id).exists(), what="its files are gone")
    assert list(Volume.list(client=server.client)) == []
