"""Removing saved states: nothing that is needed goes, and nothing that is not stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.supervised import Supervised, key_of, new_state, spec, supervised
from support.until import until

from terpd.model.errors import Unavailable
from terpd.model.ids import SandboxId
from terpd.model.ports import StateRef
from terpd.node.snapshot import state
from terpd.node.supervisor import Supervisor
from terpd.node.template import artifact


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as host:
        yield host


async def capture(supervisor: Supervisor, sandbox_id: SandboxId, *, hold: bool = False) -> StateRef:
    into = new_state()
    await supervisor.capture_machine(sandbox_id, key=key_of(sandbox_id), into=into, hold=hold)
    return into


async def needs(host: Supervised, ref: StateRef) -> set[str]:
    manifest = await state.read(host.artifacts, ref.id, ref.key)
    return {state.manifest_name(ref.id), *(part.name for part in manifest.parts)}


async def test_only_what_is_kept_and_its_layers_stay(host: Supervised) -> None:
    """Layers that another state shares too; with the last one everything goes."""
    async with host.daemon() as supervisor:
        wanted = spec()
        await supervisor.start_machine(wanted)
        one, two = await capture(supervisor, wanted.sandbox_id), await capture(supervisor, wanted.sandbox_id)
        await supervisor.stop_machine(wanted.sandbox_id)

        await supervisor.collect([two.id])
        assert host.stored() == await needs(host, two)
        await supervisor.start_machine(spec(state=two, fork=True))
        assert not await supervisor.has_state(one.id)

    async with host.daemon() as supervisor:
        await supervisor.collect([])
        assert host.stored() == set()


async def test_layers_of_machines_stay_when_their_state_goes(host: Supervised) -> None:
    """A child runs on what was frozen for it, and what it saves is still whole."""
    async with host.daemon() as supervisor:
        source, child = spec(), spec()
        await supervisor.start_machine(source)
        first = await capture(supervisor, source.sandbox_id)
        child = spec(state=first, fork=True)
        await supervisor.start_machine(child)
        await supervisor.stop_machine(source.sandbox_id)

        await supervisor.collect([])

        second = await capture(supervisor, child.sandbox_id, hold=True)
        assert await needs(host, second) <= host.stored()
        await supervisor.stop_machine(child.sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=child.sandbox_id, state=second))


async def test_states_being_written_or_started_from_stay(host: Supervised) -> None:
    """Though nobody asked for them yet, or any more."""
    async with host.daemon() as supervisor:
        wanted = spec()
        await supervisor.start_machine(wanted)
        source = await capture(supervisor, wanted.sandbox_id)
        host.vmm.gate.clear()
        start = asyncio.create_task(supervisor.start_machine(child := spec(state=source, fork=True)))
        await until(lambda: host.vmm.waiting)
        finishing = host.sealer.gates["finish"] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id))
        await until(lambda: host.sealer.acts.count("finish") == 2)

        await supervisor.collect([])

        finishing.set()
        host.vmm.gate.set()
        saved = await saving
        await start
        assert await needs(host, saved) <= host.stored()
        assert await supervisor.has_state(source.id)
        await supervisor.stop_machine(child.sandbox_id)


async def test_what_a_dead_daemon_left_goes(host: Supervised) -> None:
    """Parts without a manifest, layers without a state."""
    async with host.daemon() as supervisor:
        wanted = spec()
        await supervisor.start_machine(wanted)
        left = await capture(supervisor, wanted.sandbox_id, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
    (host.home / "artifacts" / state.manifest_name(left.id)).unlink()
    async with host.daemon() as supervisor:
        await supervisor.collect([left.id])
        assert not [name for name in host.stored() if name.startswith("layers/")]
        await supervisor.collect([])
        assert host.stored() == set()


async def test_a_state_that_cannot_be_read_keeps_all_layers(host: Supervised) -> None:
    """Who does not know what is needed removes nothing."""
    async with host.daemon() as supervisor:
        wanted = spec()
        await supervisor.start_machine(wanted)
        saved = await capture(supervisor, wanted.sandbox_id, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        manifest = host.home / "artifacts" / state.manifest_name(saved.id)
        manifest.unlink()
        manifest.write_text("{")

        await supervisor.collect([saved.id])

        assert [name for name in host.stored() if name.startswith("layers/")]


async def test_a_store_that_is_away_is_told(host: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(prefix: str) -> list[str]:
        raise Unavailable("away")

    async with host.daemon() as supervisor:
        monkeypatch.setattr(host.artifacts, "names", away)
        with pytest.raises(Unavailable):
            await supervisor.collect([])


async def test_templates_are_pinned_while_a_machine_or_a_state_needs_them(host: Supervised) -> None:
    """Both the snapshot and the image; nobody else's pins are touched."""
    async with host.daemon() as supervisor:
        wanted = spec()
        await supervisor.start_machine(wanted)
        snapshot = host.snapshots.open_exact("debian-12", host.record(wanted.sandbox_id).origin).directory
        places = (snapshot, host.image.root.parent)
        await supervisor.collect([])
        assert [artifact.pinned(place) for place in places] == [["test"]] * 2
        saved = await capture(supervisor, wanted.sandbox_id, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        await supervisor.collect([saved.id])
        assert [artifact.pinned(place) for place in places] == [["test"]] * 2
        artifact.pin(snapshot, "another")

        await supervisor.collect([])

        assert [artifact.pinned(place) for place in places] == [["another"], []]
        await supervisor.start_machine(spec())
        assert [artifact.pinned(place) for place in places] == [["another", "test"], ["test"]]
