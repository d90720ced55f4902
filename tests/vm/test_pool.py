"""Warm machines: claimed at once, made anew, and as much their own as any other."""

from __future__ import annotations

import contextlib

import pytest
from support.server import Server, StartServer
from support.wait import eventually
from terp import CapacityUnavailable, Sandbox

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def pool_server(start_server: StartServer) -> Server:
    """Keeps two warm machines, and has room for three."""
    return start_server("pool", settings={"TERP_POOL": "debian-12/small=2", "TERP_MACHINES_CAP": "3"})


def _full(server: Server) -> set[str]:
    """Wait until both warm machines are there; return their ids."""
    return eventually(lambda: warm if len(warm := _warm(server)) == 2 else None, what="the pool is full")


def _warm(server: Server) -> set[str]:
    """Ids of machines that run and belong to nobody."""
    running = {monitor.machine_id for monitor in server.host.monitors() if monitor.machine_id}
    return (running & set(server.host.machines())) - set(server.host.owners().values())


def test_a_warm_machine_is_claimed_and_replaced(pool_server: Server) -> None:
    """A create takes a machine that was waiting, and the pool is filled again behind it."""
    warm = _full(pool_server)

    with pool_server.create(env={"MINE": "yes"}) as sandbox:
        assert pool_server.host.owners()[sandbox.id] in warm
        assert sandbox.exec("echo $MINE").stdout == "yes\n"
        _full(pool_server)

    eventually(lambda: len(pool_server.host.monitors()) == 2, what="the claimed machine is gone")


def test_claimed_machines_are_their_own(pool_server: Server) -> None:
    """Two claimed machines have different randomness and names, their own environment, and the clock of now."""
    _full(pool_server)

    with pool_server.create(env={"MINE": "one"}) as one, pool_server.create(env={"OTHER": "two"}) as other:
        probe = "head -c 16 /dev/urandom | base64; cat /proc/sys/kernel/random/uuid /etc/machine-id; hostname"
        answers = [sandbox.exec(probe).check().stdout.split() for sandbox in (one, other)]
        assert not set(answers[0]) & set(answers[1])
        assert one.exec("echo $MINE $OTHER").stdout == "one\n"
        assert other.exec("echo $MINE $OTHER").stdout == "two\n"


def test_warm_machines_make_room(pool_server: Server) -> None:
    """
    A full node gives up warm machines for sandboxes that are asked for: three fit where three fit.

    One that is just being warmed up cannot be given up at once: then a create is told to try again, and gets it.
    """
    _full(pool_server)

    with contextlib.ExitStack() as stack:
        for _ in range(3):
            sandbox = stack.enter_context(eventually(lambda: _create_if_room(pool_server), what="room is made"))
            assert sandbox.exec("echo up").stdout == "up\n"
        assert len(pool_server.host.owners()) == 3
    _full(pool_server)


def _create_if_room(server: Server) -> Sandbox | None:
    with contextlib.suppress(CapacityUnavailable):
        return server.create()
    return None


def test_a_lost_warm_machine_is_replaced(pool_server: Server) -> None:
    """A warm machine that dies while it waits is never handed out, and another takes its place."""
    victims = _full(pool_server)
    for monitor in pool_server.host.monitors():
        if monitor.machine_id in victims:
            monitor.kill()

    with pool_server.create() as sandbox:
        assert sandbox.exec("echo up").stdout == "up\n"
    eventually(lambda: len(_warm(pool_server) - victims) == 2, what="the pool is full again")
