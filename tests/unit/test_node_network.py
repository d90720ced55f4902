"""A machine's network device: when its sandbox is served, by what right, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.supervised import SIZES, Supervised, key_of, new_state, spec, supervised
from support.until import until

from terpd.egress.base import Sockets
from terpd.model.errors import GuestFault, StateConflict, StateMismatch, Unavailable
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Credential, NetworkPolicy, NetworkSpec
from terpd.node.pool import PoolKey
from terpd.node.record import MachineRecord
from terpd.node.snapshot.template import variant
from terpd.node.template.progress import Quiet

NETWORK = NetworkSpec(TenantId("default"), NetworkPolicy())
OTHER = NetworkSpec(TenantId("default"), NetworkPolicy(open=True))
SECRET = Credential("api", ["api.example"], "authorization", "placeholder", "value")
NET_SMALL = PoolKey("debian-12", "small", nic=True)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as host:
        yield host


def taps(pid: int) -> list[Path]:
    """The descriptors of simulated TAPs that a process has."""
    return [path for path in Path(f"/proc/{pid}/fd").iterdir() if "memfd:tap" in str(path.readlink())]


# ---- life


async def test_a_machine_has_the_tap_of_its_own_namespace_and_is_served(host: Supervised) -> None:
    """Its monitor has the descriptor under the number that its record says; another machine has another one."""
    one, two = spec(network=NETWORK), spec(network=OTHER)
    async with host.daemon() as supervisor:
        await supervisor.start_machine(one)
        await supervisor.start_machine(two)

        assert host.gateway.served == {one.sandbox_id: NETWORK, two.sandbox_id: OTHER}
        for sandbox_id in (one.sandbox_id, two.sandbox_id):
            record = host.record(sandbox_id)
            assert record.pid
            assert [path.name for path in taps(record.pid)] == [str(record.tap)]
        assert host.record(one.sandbox_id).tap != host.record(two.sandbox_id).tap
        assert len(host.namespaces.open) == 2
        await supervisor.stop_machine(one.sandbox_id)
        assert set(host.gateway.served) == {two.sandbox_id}
        assert len(host.namespaces.open) == 1
    host.assert_empty()


async def test_a_machine_without_network_has_no_device_and_no_namespace(host: Supervised) -> None:
    """Nor does anything ask for one, so that it comes up where there are no networks at all."""
    host.gateway.failure = Unavailable("no gateway")
    wanted = spec()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(wanted)

        record = host.record(wanted.sandbox_id)
        assert record.tap is None
        assert record.origin.startswith("small-")
        assert "NET" not in record.origin
        assert host.namespaces.open == []
        with pytest.raises(Unavailable, match="use network 'off'"):
            await supervisor.start_machine(spec(network=NETWORK))
        with pytest.raises(StateConflict, match="no network device"):
            await host.node(supervisor).set_network(wanted.sandbox_id, NETWORK)
    assert host.running() == 0


async def test_a_guest_is_not_woken_before_it_is_served(host: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs is subject to a policy. When the gateway refuses, nothing is left."""
    wanted = spec(network=NETWORK)
    async with host.daemon() as supervisor:
        host.gateway.failure = Unavailable("gone")
        with pytest.raises(Unavailable, match="gone"):
            await supervisor.start_machine(wanted)

        assert host.gateway.acts[-2:] == [f"admit {wanted.sandbox_id}", f"dismiss {wanted.sandbox_id}"]
        (guest,) = host.vmm.guests.values()
        assert guest.entropy == []
        host.gateway.failure = None
        await supervisor.start_machine(wanted)
    host.assert_empty()


async def test_no_namespace_to_be_had_leaves_nothing(host: Supervised) -> None:
    async with host.daemon() as supervisor:
        host.namespaces.failure = Unavailable("no TUN device")
        with pytest.raises(Unavailable, match="no TUN device"):
            await supervisor.start_machine(spec(network=NETWORK))

        host.namespaces.failure = None
        host.assert_empty()


@pytest.mark.parametrize("gateway_is_away", [False, True])
async def test_a_machine_that_dies_is_dismissed(host: Supervised, *, gateway_is_away: bool) -> None:
    """Its namespace goes too, whatever the gateway does."""
    wanted = spec(network=NETWORK)
    async with host.daemon() as supervisor:
        await supervisor.start_machine(wanted)
        if gateway_is_away:
            host.gateway.failure = Unavailable("gone")
        host.guest(wanted.sandbox_id).process.kill()
        async for sandbox_id in supervisor.exits():
            assert sandbox_id == wanted.sandbox_id
            break
        assert host.namespaces.open == []
        assert host.gateway.acts[-1] == f"dismiss {wanted.sandbox_id}"


async def test_a_claimed_warm_machine_is_served_from_then_on(tmp_path: Path) -> None:
    """While it waits nobody answers it; one without device is not taken for it."""
    targets = {NET_SMALL: 1, PoolKey("debian-12", "small"): 1}
    async with supervised(tmp_path, targets=targets) as host, host.daemon() as supervisor:
        await until(lambda: len(host.pool.waiting()) == 2)
        assert host.gateway.served == {}
        wanted = spec(network=NETWORK)
        warm = host.pool._waiting[NET_SMALL][0]

        await supervisor.start_machine(wanted)

        assert host.record(wanted.sandbox_id).machine_id == warm.id
        assert host.gateway.served == {wanted.sandbox_id: NETWORK}


# ---- credentials


async def test_a_guest_trusts_the_authority_of_its_own_credentials(host: Supervised) -> None:
    """The gateway has its key, the guest its certificate; without credentials there is neither."""
    with_secret, without = spec(network=replace(NETWORK, credentials=[SECRET])), spec(network=NETWORK)
    async with host.daemon() as supervisor:
        await supervisor.start_machine(with_secret)
        await supervisor.start_machine(without)

        authority = host.gateway.authorities[with_secret.sandbox_id]
        assert authority is not None
        assert host.guest(with_secret.sandbox_id).trust == authority.certificate
        assert host.gateway.authorities[without.sandbox_id] is None
        assert host.guest(without.sandbox_id).trust == b""


async def test_a_resumed_guest_and_a_fork_trust_their_own_authorities(host: Supervised) -> None:
    """Each in place of the one before; a fork without credentials trusts none."""
    source, into = spec(network=replace(NETWORK, credentials=[SECRET])), new_state()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(source)
        key = key_of(source.sandbox_id)
        await supervisor.capture_machine(source.sandbox_id, key=key, into=into, hold=True)
        await supervisor.stop_machine(source.sandbox_id)
        first = host.gateway.authorities[source.sandbox_id]

        await supervisor.start_machine(
            spec(sandbox_id=source.sandbox_id, state=into, network=replace(NETWORK, credentials=[SECRET]))
        )
        fork = spec(state=into, fork=True, network=NETWORK)
        await supervisor.start_machine(fork)

        second = host.gateway.authorities[source.sandbox_id]
        assert first
        assert second
        assert first.certificate != second.certificate
        assert host.guest(source.sandbox_id).trust == second.certificate
        assert host.guest(fork.sandbox_id).trust == b""


# ---- saved states


async def test_a_pause_ends_the_network_and_a_resume_makes_another(host: Supervised) -> None:
    wanted, into = spec(network=NETWORK), new_state()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(wanted)
        key = key_of(wanted.sandbox_id)
        await supervisor.capture_machine(wanted.sandbox_id, key=key, into=into, hold=True)
        with pytest.raises(StateConflict, match="paused"):
            await host.node(supervisor).dial(wanted.sandbox_id, 8000)
        await supervisor.stop_machine(wanted.sandbox_id)
        assert (host.namespaces.open, host.gateway.served) == ([], {})

        await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into, network=OTHER))

        assert host.gateway.served == {wanted.sandbox_id: OTHER}
        assert len(host.namespaces.open) == 1


async def test_a_snapshots_source_stays_connected_and_its_child_has_a_network_of_its_own(host: Supervised) -> None:
    source, into = spec(network=NETWORK), new_state()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(source)
        before = list(host.namespaces.open)
        await supervisor.capture_machine(source.sandbox_id, key=key_of(source.sandbox_id), into=into, hold=False)
        assert host.namespaces.open == before
        assert f"dismiss {source.sandbox_id}" not in host.gateway.acts

        child = spec(state=into, fork=True, network=NETWORK)
        await supervisor.start_machine(child)

        assert host.gateway.served == {source.sandbox_id: NETWORK, child.sandbox_id: NETWORK}
        assert len(host.namespaces.open) == 2


async def test_a_state_without_device_cannot_get_a_network(host: Supervised) -> None:
    source, into = spec(), new_state()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(source)
        await supervisor.capture_machine(source.sandbox_id, key=key_of(source.sandbox_id), into=into, hold=False)

        with pytest.raises(StateMismatch, match="without network device"):
            await supervisor.start_machine(spec(state=into, fork=True, network=NETWORK))


# ---- another daemon


async def test_an_adopted_machine_is_blocked_until_it_is_told_again(host: Supervised) -> None:
    """Its namespace is found by the TAP that its monitor holds."""
    wanted = spec(network=NETWORK)
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
        inode = os.fstat(host.namespaces.open[0].tap).st_ino
    assert host.namespaces.open == []  # as far as we hold it
    async with host.daemon() as supervisor:
        assert host.gateway.served == {wanted.sandbox_id: None}
        assert [os.fstat(each.tap).st_ino for each in host.namespaces.adopted] == [inode]

        await host.node(supervisor).set_network(wanted.sandbox_id, OTHER)

        assert host.gateway.served == {wanted.sandbox_id: OTHER}
        assert len(host.namespaces.adopted) == 1
    host.assert_empty()


async def test_a_machine_is_adopted_without_network_and_gets_it_when_it_can(host: Supervised) -> None:
    """A helper that is away when the daemon starts is no reason to lose a machine."""
    wanted = spec(network=NETWORK)
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
    adopt, host.namespaces.adopt = host.namespaces.adopt, _refuse  # type: ignore[method-assign]
    async with host.daemon() as supervisor:
        node = host.node(supervisor)
        assert set(supervisor.list_machines()) == {wanted.sandbox_id}
        with pytest.raises(Unavailable, match="busy"):
            await node.set_network(wanted.sandbox_id, NETWORK)

        host.namespaces.adopt = adopt  # type: ignore[method-assign]
        await node.set_network(wanted.sandbox_id, NETWORK)

        assert host.gateway.served == {wanted.sandbox_id: NETWORK}
    host.assert_empty()


async def _refuse(tap: int) -> Sockets:
    raise Unavailable("busy")


async def test_a_monitor_that_gave_up_its_tap_is_adopted_without_network(host: Supervised) -> None:
    """A record that names a descriptor which is none, or another, is no way to any other machine's network."""
    wanted = spec(network=NETWORK)
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
    record = host.record(wanted.sandbox_id)
    replace(record, tap=999).write(host.machines / record.machine_id)
    async with host.daemon() as supervisor:
        assert set(supervisor.list_machines()) == {wanted.sandbox_id}
        with pytest.raises(Unavailable, match="lost"):
            await host.node(supervisor).set_network(wanted.sandbox_id, NETWORK)
    assert MachineRecord.find(host.machines / record.machine_id) is None
    host.assert_empty()


# ---- previews, records


async def test_dial_reaches_the_guest(host: Supervised) -> None:
    wanted = spec(network=NETWORK)
    with socket.create_server(("127.0.0.1", 0)) as guest:
        guest.setblocking(False)
        host.namespaces.guest = guest.getsockname()[1]
        async with host.daemon() as supervisor:
            await supervisor.start_machine(wanted)
            with await host.node(supervisor).dial(wanted.sandbox_id, 8000) as connection:
                assert not connection.getblocking()
                loop = asyncio.get_running_loop()
                accepted, _ = await loop.sock_accept(guest)
                with accepted:
                    await loop.sock_sendall(connection, b"GET")
                    assert await loop.sock_recv(accepted, 3) == b"GET"


async def test_dial_says_why_it_does_not(host: Supervised) -> None:
    served, off = spec(network=NETWORK), spec()
    async with host.daemon() as supervisor:
        node = host.node(supervisor)
        await supervisor.start_machine(served)
        await supervisor.start_machine(off)
        with pytest.raises(Unavailable, match="Nothing listens on port 8000"):
            await node.dial(served.sandbox_id, 8000)
        with pytest.raises(StateConflict, match="no network device"):
            await node.dial(off.sandbox_id, 8000)
        with pytest.raises(StateConflict):
            await node.dial(SandboxId("sbx_none"), 8000)


async def test_records_end_with_the_daemon(host: Supervised) -> None:
    """All that were sent are taken before: those of the connections that the daemon's end cut, too."""
    async with host.daemon() as supervisor:
        egress = host.node(supervisor).egress()
        host.gateway.recorded.put_nowait([])
        assert await anext(egress) == []
    with pytest.raises(StopAsyncIteration):
        await anext(egress)


# ---- templates


async def test_each_variant_is_prepared_by_itself(host: Supervised) -> None:
    """With a TAP for the one that has a device; preparing one leaves the other, and both are found again."""
    host.vmm.build["simulated"] = "2"
    off = await host.snapshots.ensure(host.image, SIZES["small"], Quiet())
    assert host.namespaces.created == 0
    net = await host.snapshots.ensure(host.image, SIZES["small"], Quiet(), nic=True)

    assert (host.namespaces.created, host.namespaces.open) == (1, [])
    assert (off.hardware.nic, net.hardware.nic) == (False, True)
    assert net.directory.name.startswith(f"{variant('small', nic=True)}-")
    for made in (off, net):
        assert host.snapshots.find(host.image, SIZES["small"], nic=made.hardware.nic) == made
        assert host.snapshots.open_exact("debian-12", made.directory.name) == made
    assert "nic" not in off.made_of


async def test_a_guest_that_is_lost_while_it_starts_leaves_no_network(host: Supervised) -> None:
    host.vmm.mute = True
    wanted = spec(network=NETWORK)
    async with host.daemon() as supervisor:
        starting = asyncio.create_task(supervisor.start_machine(wanted))
        await until(lambda: wanted.sandbox_id in host.gateway.served)
        next(iter(host.vmm.guests.values())).process.kill()
        with pytest.raises(GuestFault):
            await starting
        host.assert_empty()
