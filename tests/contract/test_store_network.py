"""What every Store promises of networks: policies, the record of connections, traffic."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace

import pytest
from support.egress import make_egress
from support.sandboxes import NOON, TENANT, make_sandbox
from support.snapshots import make_snapshot

from terpd.model.errors import SandboxNotFound, StateConflict
from terpd.model.ids import TenantId, new_sandbox_id
from terpd.model.network import Credential, Decision, EgressFilter, EgressRecord, Reason, Traffic
from terpd.model.ports import Store
from terpd.model.sandbox import FINAL, LIVE, Network, Sandbox, Status
from terpd.store import egress

OTHER = TenantId("other")
LATER = NOON + dt.timedelta(seconds=5)


async def recorded(store: Store, network: Network = Network.RESTRICTED, status: Status = Status.RUNNING) -> Sandbox:
    sandbox = replace(make_sandbox(status=status), network=network)
    await store.add_sandbox(sandbox, max_live=None)
    return sandbox


# ---- policies ----


async def test_network_is_read_back_as_recorded(store: Store) -> None:
    """An empty list is not the same as none; of credentials all but the value."""
    credential = Credential("example", ("api.example.com",), "authorization", "terp-secret-example", "hunter2")
    sandbox = replace(
        make_sandbox(),
        network=Network.RESTRICTED,
        allow_domains=(),
        report_only=True,
        preview_auth=True,
        credentials=(credential,),
    )
    await store.add_sandbox(sandbox, max_live=None)
    found = await store.get_sandbox(TENANT, sandbox.id)
    assert found == replace(sandbox, credentials=(replace(credential, value=""),))


@pytest.mark.parametrize("domains", [None, (), ("example.com", "http://mirror.example")])
async def test_snapshot_keeps_its_sources_policy(store: Store, domains: tuple[str, ...] | None) -> None:
    """For those that start from it."""
    snapshot = make_snapshot(network=Network.RESTRICTED, allow_domains=domains, report_only=True)
    await store.add_snapshot(snapshot, max_named=None)
    assert await store.get_snapshot(TENANT, snapshot.id) == snapshot


async def test_sandbox_of_any_tenant(store: Store) -> None:
    """Found by its id alone."""
    sandbox = replace(make_sandbox(), tenant=OTHER)
    await store.add_sandbox(sandbox, max_live=None)
    assert await store.sandbox_of_any_tenant(sandbox.id) == sandbox
    with pytest.raises(SandboxNotFound):
        await store.sandbox_of_any_tenant(new_sandbox_id())


@pytest.mark.parametrize("status", sorted(LIVE))
async def test_policy_is_set_while_it_lives(store: Store, status: Status) -> None:
    """In any state, and nothing else changes."""
    sandbox = await recorded(store, status=status)
    changed = await store.set_network_policy(
        TENANT, sandbox.id, network=Network.OPEN, allow_domains=["example.com"], report_only=True
    )
    assert changed == replace(sandbox, network=Network.OPEN, allow_domains=("example.com",), report_only=True)
    assert await store.get_sandbox(TENANT, sandbox.id) == changed
    changed = await store.set_network_policy(
        TENANT, sandbox.id, network=Network.RESTRICTED, allow_domains=None, report_only=False
    )
    assert changed == sandbox


@pytest.mark.parametrize(
    ("status", "network"),
    [*((status, Network.RESTRICTED) for status in sorted(FINAL)), (Status.RUNNING, Network.OFF)],
)
async def test_policy_of_what_has_none(store: Store, status: Status, network: Network) -> None:
    """What has ended, or has no network device, keeps its record."""
    sandbox = await recorded(store, network, status)
    with pytest.raises(StateConflict):
        await store.set_network_policy(TENANT, sandbox.id, network=Network.OPEN, allow_domains=None, report_only=False)
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox


async def test_policy_of_another_tenant(store: Store) -> None:
    """It is not found, and not changed."""
    sandbox = await recorded(store)
    with pytest.raises(SandboxNotFound):
        await store.set_network_policy(OTHER, sandbox.id, network=Network.OPEN, allow_domains=None, report_only=False)
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox


# ---- connections ----


async def listed(store: Store, sandbox: Sandbox, **where: object) -> list[EgressRecord]:
    return list(await store.list_egress(TENANT, sandbox.id, EgressFilter(**where)))  # type: ignore[arg-type]


async def test_connection_is_read_back_as_recorded(store: Store) -> None:
    """With all of its fields, and without those that may be missing."""
    sandbox = await recorded(store)
    whole = make_egress(sandbox, id="1")
    bare = make_egress(
        sandbox, id="2", name=None, address=None, credential=None, decision=Decision.BLOCKED, reason=Reason.NO_NAME
    )
    await store.add_egress([whole, bare])
    assert await listed(store, sandbox) == [bare, whole]


async def test_connections_are_counted_once(store: Store) -> None:
    """However often they come, in one batch or in several at once; what was let through and what was not apart."""
    sandbox, another = await recorded(store), await recorded(store)
    records = [
        make_egress(sandbox, id="1", bytes_out=1, bytes_in=10),
        make_egress(sandbox, id="2", bytes_out=2, bytes_in=20, decision=Decision.FAILED),
        make_egress(sandbox, id="3", bytes_out=4, bytes_in=40, decision=Decision.REPORTED),
        make_egress(sandbox, id="4", bytes_out=0, bytes_in=0, decision=Decision.BLOCKED),
        make_egress(another, id="5", bytes_out=8, bytes_in=80),
    ]
    await asyncio.gather(store.add_egress([*records, records[0]]), store.add_egress(records[1:]))
    await store.add_egress([])
    assert await store.traffic(TENANT, sandbox.id) == Traffic(7, 70, connections=3, blocked=1)
    assert await store.traffic(TENANT, another.id) == Traffic(8, 80, connections=1, blocked=0)
    assert len(await listed(store, sandbox)) == 4


async def test_many_connections_at_once(store: Store) -> None:
    """More than a statement may have values."""
    sandbox = await recorded(store)
    records = [make_egress(sandbox, id=f"{n:05}") for n in range(1201)]
    await store.add_egress(records[:700])
    await store.add_egress(records)
    assert (await store.traffic(TENANT, sandbox.id)).connections == 1201


async def test_connections_of_a_sandbox_that_is_not_recorded(store: Store) -> None:
    """One whose create was undone: nothing is lost for it, and nobody can read it."""
    sandbox = make_sandbox()
    await store.add_egress([make_egress(sandbox)])
    with pytest.raises(SandboxNotFound):
        await store.list_egress(TENANT, sandbox.id, EgressFilter())


async def test_connections_of_another_tenant(store: Store) -> None:
    """Neither they nor their sum are found."""
    sandbox = await recorded(store)
    await store.add_egress([make_egress(sandbox)])
    with pytest.raises(SandboxNotFound):
        await store.list_egress(OTHER, sandbox.id, EgressFilter())
    with pytest.raises(SandboxNotFound):
        await store.traffic(OTHER, sandbox.id)


async def test_no_traffic_yet(store: Store) -> None:
    """Of a sandbox that never sent anything."""
    sandbox = await recorded(store)
    assert await store.traffic(TENANT, sandbox.id) == Traffic(0, 0, 0, 0)
    assert await listed(store, sandbox) == []


async def test_filters_of_connections_must_all_match(store: Store) -> None:
    """Each by itself and all together; a name is matched whole."""
    sandbox = await recorded(store)
    blocked = make_egress(sandbox, id="1", decision=Decision.BLOCKED)
    other_name = make_egress(sandbox, id="2", name="example.com", decision=Decision.BLOCKED)
    later = make_egress(sandbox, id="3", decision=Decision.BLOCKED, at=LATER)
    allowed = make_egress(sandbox, id="4", at=LATER)
    await store.add_egress([blocked, other_name, later, allowed])
    assert await listed(store, sandbox, decision=Decision.BLOCKED) == [later, other_name, blocked]
    assert await listed(store, sandbox, name="example.com") == [other_name]
    assert await listed(store, sandbox, since=LATER) == [allowed, later]
    assert await listed(store, sandbox, decision=Decision.BLOCKED, name="api.example.com", since=LATER) == [later]


async def test_pages_of_connections_meet(store: Store) -> None:
    """Newest first; following `before` visits each once."""
    sandbox = await recorded(store)
    records = [make_egress(sandbox, id=f"{n}") for n in range(5)]
    await store.add_egress(records)
    first = await listed(store, sandbox, limit=3)
    rest = await listed(store, sandbox, limit=3, before=first[-1].id)
    assert [*first, *rest] == records[::-1]


async def test_old_connections_are_removed_in_pieces(store: Store) -> None:
    """The oldest first, and not those of that very moment; the sums stay."""
    sandbox = await recorded(store)
    old = [make_egress(sandbox, id=f"{n}", at=NOON + dt.timedelta(seconds=n)) for n in range(3)]
    new = make_egress(sandbox, id="9", at=LATER)
    await store.add_egress([*old, new])
    assert await store.prune_egress(LATER, limit=2) == 2
    assert await listed(store, sandbox) == [new, old[2]]
    assert await store.prune_egress(LATER, limit=2) == 1
    assert await store.prune_egress(LATER, limit=2) == 0
    assert await listed(store, sandbox) == [new]
    assert (await store.traffic(TENANT, sandbox.id)).connections == 4


async def test_flood_of_connections(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox cannot fill the disk, nor push out what it sent by what it was refused; the sums stay true."""
    monkeypatch.setattr(egress, "MAX_EGRESS_RECORDS", 30)
    monkeypatch.setattr(egress, "THIN_EVERY", 10)
    flooding, quiet = await recorded(store), await recorded(store)
    sent = [make_egress(flooding, id=f"0{n}") for n in range(5)]
    await store.add_egress([*sent, make_egress(quiet, id="1")])
    for batch in range(20):
        refused = [make_egress(flooding, id=f"{batch + 10}{n}", decision=Decision.BLOCKED) for n in range(7)]
        await store.add_egress(refused)
    kept = await listed(store, flooding)
    assert 30 <= len(kept) <= 30 + 10 + 7
    assert kept[-5:] == sent[::-1]
    assert kept[0].id == "296"
    traffic = await store.traffic(TENANT, flooding.id)
    assert (traffic.connections, traffic.blocked) == (5, 140)
    assert len(await listed(store, quiet)) == 1
