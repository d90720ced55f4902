"""Variables that were set while a guest runs: kept out of snapshots, and given back whatever becomes of these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.supervised import Supervised, key_of, new_state, spec, supervised
from support.until import until

from terpd.model.errors import SecretsInUse, TerpError
from terpd.model.ids import SandboxId
from terpd.model.ports import MachinePhase, StateRef
from terpd.node.supervisor import Supervisor
from terpd.node.vmm.base import VmmFailed

VARIABLES = {"TOKEN": "opensesame"}


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as host:
        yield host


async def started(host: Supervised, supervisor: Supervisor) -> SandboxId:
    wanted = spec()
    await supervisor.start_machine(wanted)
    host.guest(wanted.sandbox_id).ephemeral = dict(VARIABLES)
    return wanted.sandbox_id


async def snapshot(supervisor: Supervisor, sandbox_id: SandboxId, into: StateRef, *, withhold: bool) -> None:
    await supervisor.capture_machine(
        sandbox_id, key=key_of(sandbox_id), into=into, hold=False, withhold_secrets=withhold
    )


@pytest.mark.parametrize("withhold", [True, False])
async def test_a_child_has_them_only_if_asked(host: Supervised, *, withhold: bool) -> None:
    """The source has them as before."""
    async with host.daemon() as supervisor:
        source = await started(host, supervisor)
        await snapshot(supervisor, source, into := new_state(), withhold=withhold)
        child = spec(state=into, fork=True)
        await supervisor.start_machine(child)

        assert host.guest(source).ephemeral == VARIABLES
        assert host.guest(child.sandbox_id).ephemeral == ({} if withhold else VARIABLES)


async def test_a_pause_keeps_them(host: Supervised) -> None:
    """They are in the saved state, encrypted with everything else, for it is the same sandbox that goes on."""
    async with host.daemon() as supervisor:
        sandbox_id = await started(host, supervisor)
        await supervisor.capture_machine(sandbox_id, key=key_of(sandbox_id), into=(into := new_state()), hold=True)
        await supervisor.stop_machine(sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=sandbox_id, state=into))

        assert host.guest(sandbox_id).ephemeral == VARIABLES


async def test_secrets_in_use_are_told_and_nothing_changes(host: Supervised) -> None:
    async with host.daemon() as supervisor:
        sandbox_id = await started(host, supervisor)
        host.guest(sandbox_id).secrets_in_use = True
        with pytest.raises(SecretsInUse, match="include_secrets"):
            await snapshot(supervisor, sandbox_id, into := new_state(), withhold=True)

        assert supervisor.list_machines() == {sandbox_id: MachinePhase.AWAKE}
        assert host.guest(sandbox_id).ephemeral == VARIABLES
        assert host.guest(sandbox_id).state == "awake"
        assert not await supervisor.has_state(into.id)
        await snapshot(supervisor, sandbox_id, into, withhold=False)


@pytest.mark.parametrize(
    ("whose", "act"),
    [("vm", "stop"), ("vm", "devices"), ("vm", "push_layer"), ("sealer", "copy"), ("sealer", "finish")],
)
async def test_a_snapshot_that_fails_gives_them_back(host: Supervised, whose: str, act: str) -> None:
    """Wherever it fails."""
    async with host.daemon() as supervisor:
        sandbox_id = await started(host, supervisor)
        faults = host.sealer.faults if whose == "sealer" else host.guest(sandbox_id).faults
        faults[act] = VmmFailed("refused")
        with pytest.raises(TerpError):
            await snapshot(supervisor, sandbox_id, new_state(), withhold=True)

        assert host.guest(sandbox_id).ephemeral == VARIABLES
        assert host.guest(sandbox_id).state == "awake"


@pytest.mark.parametrize("act", ["open", "copy", "finish"])
async def test_a_snapshot_that_is_cancelled_gives_them_back(host: Supervised, act: str) -> None:
    async with host.daemon() as supervisor:
        sandbox_id = await started(host, supervisor)
        host.sealer.gates[act] = asyncio.Event()
        saving = asyncio.create_task(snapshot(supervisor, sandbox_id, new_state(), withhold=True))
        await until(lambda: act in host.sealer.acts)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving

        assert host.guest(sandbox_id).ephemeral == VARIABLES


async def test_a_snapshot_that_is_cancelled_while_the_guest_freezes_gives_them_back(
    host: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the answer that is under way then, and nowhere else."""
    async with host.daemon() as supervisor:
        sandbox_id = await started(host, supervisor)
        guest = host.guest(sandbox_id)
        machine = supervisor.find(sandbox_id)
        assert machine is not None
        client = machine.guest
        frozen, answered = asyncio.Event(), asyncio.Event()
        freeze = client.freeze

        async def slow_freeze(**options: bool | float) -> object:
            withheld = await freeze(**options)  # type: ignore[arg-type]  # passed through
            frozen.set()
            await answered.wait()
            return withheld

        monkeypatch.setattr(client, "freeze", slow_freeze)
        saving = asyncio.create_task(snapshot(supervisor, sandbox_id, new_state(), withhold=True))
        await frozen.wait()
        assert guest.ephemeral == {}
        saving.cancel()
        await asyncio.sleep(0)
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await saving

        assert guest.ephemeral == VARIABLES
