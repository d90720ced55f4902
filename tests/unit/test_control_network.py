"""What a sandbox may reach: set at its create and later, over pauses, forks and restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT

from terpd.control.credentials import CredentialRequest
from terpd.control.fork import ForkRequest
from terpd.control.network import NetworkChange
from terpd.model.errors import GuestFault, InvalidRequest, SandboxNotFound, StateConflict, Unavailable
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Credential, NetworkPolicy
from terpd.model.ports import Change
from terpd.model.sandbox import Network, OnTimeout, Sandbox, Status

OPEN, RESTRICTED, OFF = Network.OPEN, Network.RESTRICTED, Network.OFF
SECRET = CredentialRequest("example", ["api.example.com"], "hunter2")
CREDENTIAL = Credential("example", ("api.example.com",), "authorization", "terp-secret-example", "hunter2")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, POLICY) as world:
        yield world


def reached(world: Controlled, sandbox: Sandbox) -> NetworkPolicy:
    """What its machine may reach now."""
    network = world.node.machines[sandbox.id].network
    assert network is not None
    return network.policy


def credentials(world: Controlled, sandbox: Sandbox) -> list[Credential]:
    network = world.node.machines[sandbox.id].network
    assert network is not None
    return list(network.credentials)


async def change(world: Controlled, sandbox: Sandbox, **options: object) -> Sandbox:
    return await world.services.network.set(TENANT, sandbox.id, NetworkChange(**options))  # type: ignore[arg-type]


async def restart(world: Controlled) -> None:
    """The daemon was restarted, and machines outlived it."""
    world.services = world._new()
    world.node.adopt_all()


# ---- at a create ----


async def test_network_at_a_create(world: Controlled) -> None:
    """The machine gets what was asked for, and the record says so."""
    sandbox = await world.create(network=RESTRICTED, allow_domains=["Example.COM"], report_only=True, preview_auth=True)
    assert (sandbox.network, sandbox.allow_domains, sandbox.report_only) == (RESTRICTED, ("example.com",), True)
    assert sandbox.preview_auth
    assert world.node.machines[sandbox.id].spec.network.tenant == TENANT  # type: ignore[union-attr]
    assert reached(world, sandbox) == NetworkPolicy(allow_domains=("example.com",), report_only=True)
    assert reached(world, await world.create(network=OPEN)) == NetworkPolicy(open=True)
    assert reached(world, await world.create(network=RESTRICTED)) == NetworkPolicy(allow_domains=None)


async def test_no_network(world: Controlled) -> None:
    """What acts on a network only is not recorded without one; secrets would not work."""
    sandbox = await world.create(allow_domains=["example.com"], report_only=True)
    assert (sandbox.network, sandbox.allow_domains, sandbox.report_only) == (OFF, None, False)
    assert world.node.machines[sandbox.id].spec.network is None
    with pytest.raises(InvalidRequest, match="secrets"):
        await world.create(secrets=[SECRET])


async def test_secrets(world: Controlled) -> None:
    """The machine's gateway has the value; the guest and the record have what stands for it."""
    sandbox = await world.create(network=RESTRICTED, secrets=[SECRET], env={"A": "1"})
    assert credentials(world, sandbox) == [CREDENTIAL]
    assert (await world.run(sandbox.id, "env EXAMPLE")).stdout == b"terp-secret-example"
    assert (await world.run(sandbox.id, "env A")).stdout == b"1"
    assert (await world.get(sandbox.id)).credentials == (dataclasses.replace(CREDENTIAL, value=""),)
    assert "hunter2" not in repr(world.services.__dict__)
    with pytest.raises(InvalidRequest, match="both set EXAMPLE"):
        await world.create(network=RESTRICTED, secrets=[SECRET], env={"EXAMPLE": "1"})


def held(world: Controlled, sandbox_id: SandboxId) -> bool:
    """Whether the server has the values of its credentials."""
    recorded = [dataclasses.replace(CREDENTIAL, value="")]
    return world.services.create._networks.credentials.fill(sandbox_id, recorded) == [CREDENTIAL]


async def test_secrets_go_with_the_sandbox(world: Controlled) -> None:
    """Terminated, lost, or never started: nothing is held for it."""
    terminated, lost = [await world.create(network=OPEN, secrets=[SECRET]) for _ in range(2)]
    assert held(world, terminated.id)
    assert held(world, lost.id)
    await world.services.terminate(TENANT, terminated.id)
    world.node.crash(lost.id)
    await world.services.reconcile.sweep()
    world.node.start_error = GuestFault("lost")
    with pytest.raises(GuestFault):
        await world.create(network=OPEN, secrets=[SECRET])
    assert [held(world, sandbox.id) for sandbox in await world.all()] == [False] * 3


async def test_sweep_leaves_the_secrets_of_a_create(world: Controlled) -> None:
    """Also those of one that was not there when it looked last."""
    looked = asyncio.Event()
    go_on = asyncio.Event()
    live_sandboxes = world.store.live_sandboxes
    looks = itertools.count(1)

    async def slow(node_id: str) -> object:
        found = await live_sandboxes(node_id)
        if next(looks) == 2:  # the last one before it forgets what is not there
            looked.set()
            await go_on.wait()
        return found

    world.store.live_sandboxes = slow  # type: ignore[assignment, method-assign]
    sweeping = asyncio.create_task(world.services.reconcile.sweep())
    await looked.wait()
    sandbox = await world.create(network=OPEN, secrets=[SECRET])
    go_on.set()
    await sweeping
    assert held(world, sandbox.id)


# ---- changed while it runs ----


async def test_policy_is_changed(world: Controlled) -> None:
    """What is not given stays; null is the default list again."""
    sandbox = await world.create(network=RESTRICTED, allow_domains=["example.com"], secrets=[SECRET])
    assert (await change(world, sandbox, report_only=True)).report_only
    assert reached(world, sandbox) == NetworkPolicy(allow_domains=("example.com",), report_only=True)
    await change(world, sandbox, allow_domains=["other.example"], report_only=False)
    assert reached(world, sandbox) == NetworkPolicy(allow_domains=("other.example",))
    changed = await change(world, sandbox, mode=OPEN, allow_domains=None)
    assert changed == await world.get(sandbox.id)
    assert (changed.network, changed.allow_domains) == (OPEN, None)
    assert reached(world, sandbox) == NetworkPolicy(open=True)
    assert credentials(world, sandbox) == [CREDENTIAL]


async def test_change_that_cannot_be(world: Controlled) -> None:
    """Nothing is recorded of it."""
    networked, without = await world.create(network=OPEN), await world.create()
    ended = await world.create(network=OPEN)
    await world.services.terminate(TENANT, ended.id)
    with pytest.raises(StateConflict, match="empty allow_domains"):
        await change(world, networked, mode=OFF)
    with pytest.raises(StateConflict, match="no network device"):
        await change(world, without, mode=OPEN)
    with pytest.raises(StateConflict, match="terminated"):
        await change(world, ended, report_only=True)
    with pytest.raises(InvalidRequest, match="allow_domains"):
        await change(world, networked, allow_domains=["*"])
    with pytest.raises(SandboxNotFound):
        await world.services.network.set(TenantId("other"), networked.id, NetworkChange(report_only=True))
    assert await world.get(networked.id) == networked
    assert await world.get(without.id) == without


async def test_gateway_is_away(world: Controlled) -> None:
    """The caller hears of it, and the next sweep makes good what is on record."""
    sandbox = await world.create(network=OPEN)
    world.node.network_error = Unavailable("away")
    with pytest.raises(Unavailable):
        await change(world, sandbox, mode=RESTRICTED)
    await world.services.reconcile.sweep()
    assert reached(world, sandbox).open
    world.node.network_error = None
    await world.services.reconcile.sweep()
    assert not reached(world, sandbox).open


async def test_changes_at_once(world: Controlled) -> None:
    """Each sees those before it, and what holds in the end is what is on record."""
    sandbox = await world.create(network=RESTRICTED, allow_domains=[])
    await asyncio.gather(
        *(change(world, sandbox, allow_domains=[f"h{n}.example"]) for n in range(5)),
        change(world, sandbox, report_only=True),
    )
    recorded = await world.get(sandbox.id)
    assert recorded.report_only
    assert reached(world, sandbox) == NetworkPolicy(allow_domains=recorded.allow_domains, report_only=True)


async def test_caller_goes_away(world: Controlled) -> None:
    """What is on record is applied all the same."""
    sandbox = await world.create(network=OPEN)
    world.node.network_gate.clear()
    changing = asyncio.create_task(change(world, sandbox, mode=RESTRICTED))
    await world.node.setting_network.wait()
    changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    world.node.network_gate.set()
    await world.services._shielded.drain(10)
    assert not reached(world, sandbox).open


# ---- pauses ----


async def test_pause_and_resume(world: Controlled) -> None:
    """What was changed meanwhile holds from the resume on; credentials are kept."""
    sandbox = await world.paused(network=OPEN, secrets=[SECRET])
    assert (await change(world, sandbox, mode=RESTRICTED, allow_domains=["example.com"])).status is Status.PAUSED
    await world.services.resume(TENANT, sandbox.id)
    assert reached(world, sandbox) == NetworkPolicy(allow_domains=("example.com",))
    assert credentials(world, sandbox) == [CREDENTIAL]


async def test_change_during_a_resume(world: Controlled) -> None:
    """The machine that is starting had read the record before: it is told when it is there."""
    sandbox = await world.paused(network=OPEN)
    world.node.start_gate.clear()
    world.node.starting.clear()
    resuming = asyncio.create_task(world.services.resume(TENANT, sandbox.id))
    await world.node.starting.wait()
    changing = asyncio.create_task(change(world, sandbox, mode=RESTRICTED))
    await asyncio.sleep(0.02)
    assert not changing.done()
    world.node.start_gate.set()
    await resuming
    assert (await changing).status is Status.RUNNING
    assert not reached(world, sandbox).open


async def test_change_during_a_create_that_fails(world: Controlled) -> None:
    """Then there is nothing to change."""
    world.node.start_gate.clear()
    creating = asyncio.create_task(world.create(network=OPEN))
    await world.node.starting.wait()
    (sandbox,) = await world.all()
    changing = asyncio.create_task(change(world, sandbox, mode=RESTRICTED))
    await asyncio.sleep(0.02)
    world.node.start_error = GuestFault("lost")
    world.node.start_gate.set()
    with pytest.raises(GuestFault):
        await creating
    with pytest.raises(StateConflict, match="start_failed"):
        await changing


async def test_pause_ends_during_a_change(world: Controlled) -> None:
    """The machine is gone when it is to be told: the change holds from the resume on."""
    sandbox = await world.create(network=OPEN)
    world.node.network_gate.clear()
    changing = asyncio.create_task(change(world, sandbox, mode=RESTRICTED))
    await world.node.setting_network.wait()
    await world.services.pause(TENANT, sandbox.id)
    world.node.network_gate.set()
    assert (await changing).status is Status.PAUSED
    await world.services.resume(TENANT, sandbox.id)
    assert not reached(world, sandbox).open


async def test_end_during_a_change(world: Controlled) -> None:
    """The caller hears why."""
    sandbox = await world.create(network=OPEN)
    world.node.network_gate.clear()
    changing = asyncio.create_task(change(world, sandbox, mode=RESTRICTED))
    await world.node.setting_network.wait()
    await world.services.terminate(TENANT, sandbox.id)
    world.node.network_gate.set()
    with pytest.raises(StateConflict, match="user"):
        await changing


# ---- snapshots and forks ----


async def test_children_have_the_sources_policy(world: Controlled) -> None:
    """And none of its credentials, unless that is asked for."""
    source = await world.create(
        network=RESTRICTED, allow_domains=["example.com"], secrets=[SECRET], preview_auth=True, report_only=True
    )
    forked = await world.services.fork(TENANT, source.id, ForkRequest())
    (child,) = forked.children
    assert (child.network, child.preview_auth, child.credentials) == (RESTRICTED, True, ())
    assert reached(world, child) == reached(world, source)
    assert credentials(world, child) == []
    (heir,) = (await world.services.fork(TENANT, source.id, ForkRequest(inherit_secrets=True))).children
    assert credentials(world, heir) == [CREDENTIAL]
    await world.services.terminate(TENANT, source.id)
    assert held(world, heir.id)
    assert not held(world, child.id)


async def test_start_from_a_snapshot(world: Controlled) -> None:
    """With the policy of then, or another list; the mode is the snapshot's, and secrets are its own."""
    source = await world.create(network=RESTRICTED, allow_domains=["example.com"], secrets=[SECRET])
    snapshot = await world.services.snapshots.create(TENANT, source.id, None)
    await change(world, source, mode=OPEN)
    child = await world.create(snapshot=snapshot.id)
    assert reached(world, child) == NetworkPolicy(allow_domains=("example.com",))
    assert credentials(world, child) == []
    other = await world.create(snapshot=snapshot.id, allow_domains=[], secrets=[SECRET])
    assert reached(world, other) == NetworkPolicy(allow_domains=())
    assert credentials(world, other) == [CREDENTIAL]


async def test_fork_that_fails(world: Controlled) -> None:
    """No credential is held for children that are not."""
    source = await world.create(network=OPEN, secrets=[SECRET])
    world.node.start_error = GuestFault("lost")
    with pytest.raises(GuestFault):
        await world.services.fork(TENANT, source.id, ForkRequest(inherit_secrets=True))
    assert [held(world, sandbox.id) for sandbox in await world.all() if sandbox.id != source.id] == [False]


# ---- restarts ----


async def test_restart(world: Controlled) -> None:
    """What is on record is applied to each machine; credentials are known to be lost, and stay so."""
    sandbox = await world.create(network=RESTRICTED, allow_domains=["example.com"], secrets=[SECRET])
    another = await world.create(network=OPEN)
    without = await world.create()
    await restart(world)
    await world.services.reconcile.at_start()
    assert reached(world, sandbox) == NetworkPolicy(allow_domains=("example.com",))
    assert reached(world, another) == NetworkPolicy(open=True)
    assert world.node.machines[without.id].network is None
    assert credentials(world, sandbox) == [dataclasses.replace(CREDENTIAL, value="")]
    await world.services.pause(TENANT, sandbox.id)
    await world.services.resume(TENANT, sandbox.id)
    assert credentials(world, sandbox) == [dataclasses.replace(CREDENTIAL, value="")]


async def test_restart_between_record_and_machine(world: Controlled) -> None:
    """What was recorded holds."""
    sandbox = await world.create(network=OPEN)
    world.node.network_gate.clear()
    await world.die_during(change(world, sandbox, mode=RESTRICTED), world.node.setting_network)
    world.node.network_gate.set()
    world.node.adopt_all()
    await world.services.reconcile.at_start()
    assert reached(world, sandbox) == NetworkPolicy()


@pytest.mark.parametrize("status", [Status.PAUSING, Status.RESUMING])
async def test_restart_during_a_pause_or_resume(world: Controlled, status: Status) -> None:
    """What is put in order gets its network in the same sweep."""
    sandbox = await world.create(network=OPEN, on_timeout=OnTimeout.PAUSE)
    if status is Status.PAUSING:
        world.node.capture_gate.clear()
        await world.die_during(world.services.pause(TENANT, sandbox.id), world.node.capturing)
        world.node.capture_gate.set()
    else:  # as it is between the start of its machine and the record of that
        await world.services.pause(TENANT, sandbox.id)
        await world.services.resume(TENANT, sandbox.id)
        for step in (Status.PAUSING, Status.PAUSED, Status.RESUMING):
            await world.store.set_status(sandbox.id, step, at=world.clock.now(), change=Change())
    await restart(world)
    await world.services.reconcile.at_start()
    assert await world.status(sandbox.id) is Status.RUNNING
    assert reached(world, sandbox).open


async def test_sweep_tells_the_node_once(world: Controlled) -> None:
    """What was told is not told again every minute."""
    sandbox = await world.create(network=OPEN)
    await world.services.reconcile.sweep()
    world.node.machines[sandbox.id].network = None
    await world.services.reconcile.sweep()
    assert world.node.machines[sandbox.id].network is None
