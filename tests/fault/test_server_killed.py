"""
The server dies between any two lines: it is killed at a random moment of an operation, over and over.

The moments are drawn from a seeded generator over a little more than the operation's usual length, so rounds fall
before, into and behind it. After each the server is started again, and records, processes and files must agree.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from support.consistency import assert_consistent
from support.server import Server
from support.wait import eventually
from terp import Sandbox, TerpError

pytestmark = pytest.mark.vm

OwnServer = Callable[..., Server]

_ROUNDS = 4


@contextlib.contextmanager
def _killed_during(server: Server, act: Callable[[], object], delay_s: float) -> Iterator[None]:
    """Start *act*, kill the server *delay_s* later, wait until *act* has found out, and start the server again."""

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


def _post_create(server: Server) -> Callable[[], object]:
    """A create that is sent once: the SDK would repeat it."""

    def act() -> None:
        with server.http() as http:
            http.post("/v1/sandboxes", json={"template": "debian-12"})

    return act


@pytest.fixture
def survivor(own_server: OwnServer) -> tuple[Server, Sandbox]:
    """A server with a sandbox that no kill may touch: it has a file and a process of its own."""
    server = own_server().start()
    sandbox = server.create(timeout=3600)
    sandbox.files.write("/workspace/kept", "kept")
    sandbox.exec("setsid sh -c 'echo $$ > /tmp/pid; exec sleep 100000' > /dev/null 2>&1 &").check()
    eventually(lambda: sandbox.files.exists("/tmp/pid"))
    return server, sandbox


def _assert_untouched(server: Server, sandbox: Sandbox) -> None:
    again = server.get(sandbox.id)
    assert again.status == "running"
    assert again.files.read("/workspace/kept") == "kept"
    assert again.exec("kill -0 $(cat /tmp/pid)").exit_code == 0


def test_killed_during_create(survivor: tuple[Server, Sandbox]) -> None:
    """A create that the server did not survive leaves a whole sandbox or none."""
    server, sandbox = survivor
    moments = random.Random("create")

    for _ in range(_ROUNDS):
        with _killed_during(server, _post_create(server), moments.uniform(0.0, 0.4)):
            pass

        running = assert_consistent(server)
        assert sandbox.id in running
        _assert_untouched(server, sandbox)
        for other in running - {sandbox.id}:
            server.get(other).terminate()


def test_killed_during_several_creates(survivor: tuple[Server, Sandbox]) -> None:
    """Also when creates were at different stages at the same moment."""
    server, sandbox = survivor

    def several() -> None:
        threads = [threading.Thread(target=_quietly(_post_create(server))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with _killed_during(server, several, random.Random("several").uniform(0.1, 0.6)):
        pass

    assert sandbox.id in assert_consistent(server)


def test_killed_during_terminate(survivor: tuple[Server, Sandbox]) -> None:
    """A terminate that the server did not survive is done or can be repeated; nothing stays half removed."""
    server, sandbox = survivor
    moments = random.Random("terminate")

    for _ in range(_ROUNDS):
        victim = server.create()
        with _killed_during(server, victim.terminate, moments.uniform(0.0, 0.12)):
            pass

        running = assert_consistent(server)
        assert sandbox.id in running
        server.get(victim.id).terminate()
        assert assert_consistent(server) == {sandbox.id}
        assert server.get(victim.id).status == "terminated"


def test_killed_during_exec_and_upload(survivor: tuple[Server, Sandbox]) -> None:
    """Commands go on without the server; a torn upload leaves the file as it was."""
    server, sandbox = survivor
    sandbox.files.write("/workspace/upload", "old")
    moments = random.Random("exec")

    for n in range(_ROUNDS - 1):
        command = f"for i in $(seq 30); do echo line; sleep 0.1; done; echo finished > /tmp/finished-{n}"

        def busy(command: str = command) -> None:
            uploading = threading.Thread(
                target=_quietly(lambda: sandbox.files.write("/workspace/upload", b"new" * 3_000_000))
            )
            uploading.start()
            sandbox.exec(command)
            uploading.join()

        with _killed_during(server, busy, moments.uniform(0.05, 0.8)):
            pass

        assert sandbox.id in assert_consistent(server)
        again = server.get(sandbox.id)
        assert again.files.read_bytes("/workspace/upload") in (b"old", b"new" * 3_000_000)
        finished = functools.partial(again.files.exists, f"/tmp/finished-{n}")
        eventually(finished, what="the command finished alone")
    _assert_untouched(server, sandbox)


def test_killed_during_pool_refill(own_server: OwnServer) -> None:
    """Warm machines nobody had claimed are made anew after a kill, half-made ones leave nothing, claimed ones stay."""
    server = own_server(settings={"TERP_POOL": "debian-12/small=1"}).start()
    moments = random.Random("pool")
    claimed: set[str] = set()

    for _ in range(_ROUNDS - 1):
        with _killed_during(server, _post_create(server), moments.uniform(0.0, 1.2)):
            pass
        now = assert_consistent(server, warm=1)
        assert claimed <= now
        claimed = now

    for sandbox_id in claimed:
        server.get(sandbox_id).terminate()
    assert assert_consistent(server, warm=1) == set()


def test_killed_again_while_it_recovers(survivor: tuple[Server, Sandbox]) -> None:
    """Recovery itself may be killed at any moment; the next one finishes it."""
    server, sandbox = survivor
    moments = random.Random("recovery")
    with _killed_during(server, _post_create(server), 0.15):
        for _ in range(_ROUNDS):
            server.start_and_kill(moments.uniform(0.3, 2.5))

    assert sandbox.id in assert_consistent(server)
    _assert_untouched(server, sandbox)


def _quietly(act: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(TerpError, httpx.TransportError):
            act()

    return run
