"""Which machine has which volume: starts, claims, ends and daemons that die, over simulated machines."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.supervised import SMALL, Supervised, spec, supervised
from support.until import until

from terpd.model.errors import GuestFault, StateDamaged
from terpd.model.ids import new_state_id, new_volume_id
from terpd.model.ports import MachineSpec, StateRef
from terpd.model.volume import VolumeRef
from terpd.node.supervisor import Supervisor
from terpd.node.vmm.base import VmmFailed


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as host:
        yield host


def with_volume(host: Supervised, ref: VolumeRef | None = None) -> MachineSpec:
    """Of a volume whose disk is there."""
    ref = ref or VolumeRef(new_volume_id(), 256, secrets.token_bytes(32))
    disk = host.home / "volumes" / ref.id / "disk.qcow2"
    disk.parent.mkdir(parents=True, exist_ok=True)
    disk.touch()
    return replace(spec(), volume=ref)


async def paused(supervisor: Supervisor, wanted: MachineSpec) -> MachineSpec:
    """Save its machine and end it; return what resumes it."""
    into = StateRef(new_state_id(), wanted.key)
    await supervisor.capture_machine(wanted.sandbox_id, key=wanted.key, into=into, hold=True, withhold_secrets=False)
    await supervisor.stop_machine(wanted.sandbox_id)
    return replace(wanted, state=into)


@pytest.mark.parametrize("warm", [0, 1])
async def test_a_machine_gets_its_volume_before_it_is_handed_out(tmp_path: Path, warm: int) -> None:
    """A fresh one and one that was waiting: behind the slot, mounted, with its size, and named in the record."""
    async with supervised(tmp_path, targets={SMALL: warm}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == warm)
        wanted = with_volume(host)
        assert wanted.volume is not None
        await supervisor.start_machine(wanted)
        guest = host.guest(wanted.sandbox_id)
        assert guest.volume is not None
        assert guest.volume.path == host.home / "volumes" / wanted.volume.id / "disk.qcow2"
        assert guest.mounted == 256 << 20
        assert host.record(wanted.sandbox_id).volume == wanted.volume.id


async def test_its_guest_unmounts_before_it_ends(host: Supervised) -> None:
    """A guest that is silent is not waited for long, and one that is held is not asked."""
    async with host.daemon() as supervisor:
        wanted = with_volume(host)
        await supervisor.start_machine(wanted)
        guest = host.guest(wanted.sandbox_id)
        await supervisor.stop_machine(wanted.sandbox_id)
        assert guest.mounted is None
        await supervisor.start_machine(wanted)
        guest = host.guest(wanted.sandbox_id)
        await paused(supervisor, wanted)
        assert guest.mounted is not None


async def test_the_next_machine_waits_for_the_end_of_the_one_before(host: Supervised) -> None:
    """However the first one ends."""
    async with host.daemon() as supervisor:
        first = with_volume(host)
        second = with_volume(host, first.volume)
        await supervisor.start_machine(first)
        starting = asyncio.create_task(supervisor.start_machine(second))
        await asyncio.sleep(0.05)
        assert len(host.vmm.started) == 1
        host.guest(first.sandbox_id).process.kill()
        await starting
        assert set(supervisor.list_machines()) == {second.sandbox_id}


async def test_a_start_that_fails_lets_go(host: Supervised) -> None:
    """Whether the monitor, its slot or the guest is at fault; no machine is left."""
    async with host.daemon() as supervisor:
        wanted = with_volume(host)
        host.vmm.failure = VmmFailed("refused")
        with pytest.raises(GuestFault):
            await supervisor.start_machine(wanted)
        host.vmm.failure = None
        await supervisor.start_machine(wanted)
        assert host.guest(wanted.sandbox_id).mounted


async def test_a_daemon_knows_what_an_adopted_machine_holds(host: Supervised) -> None:
    """Its end gives the volume back, as if there had been one daemon."""
    wanted = with_volume(host)
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
    async with host.daemon() as supervisor:
        other = with_volume(host, wanted.volume)
        starting = asyncio.create_task(supervisor.start_machine(other))
        await asyncio.sleep(0.05)
        assert set(supervisor.list_machines()) == {wanted.sandbox_id}
        await supervisor.stop_machine(wanted.sandbox_id)
        await starting


async def test_a_resumed_machine_has_its_volume_from_the_start(host: Supervised) -> None:
    """Nothing is inserted into it and nothing mounted: its memory has all that."""
    async with host.daemon() as supervisor:
        wanted = with_volume(host)
        await supervisor.start_machine(wanted)
        await supervisor.start_machine(await paused(supervisor, wanted))
        guest = host.guest(wanted.sandbox_id)
        assert guest.volume is not None
        assert (guest.mounted, "insert_volume" in guest.acts) == (None, False)


async def test_a_volume_that_was_written_to_since_is_not_resumed_with(host: Supervised) -> None:
    """A resume that failed late may have done that; another sandbox may have it all the same."""
    async with host.daemon() as supervisor:
        wanted = with_volume(host)
        assert wanted.volume is not None
        await supervisor.start_machine(wanted)
        resume = await paused(supervisor, wanted)
        os.truncate(host.home / "volumes" / wanted.volume.id / "disk.qcow2", 1)
        with pytest.raises(StateDamaged, match="written to"):
            await supervisor.start_machine(resume)
        await supervisor.start_machine(with_volume(host, wanted.volume))
