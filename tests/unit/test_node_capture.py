"""Saving machines: pause, continue, resume, snapshot and fork, and every way in which they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.supervised import SMALL, Supervised, key_of, new_state, spec, supervised
from support.until import until

from terpd.model.errors import (
    GuestFault,
    StateConflict,
    StateDamaged,
    StateMismatch,
    StorageFull,
    TerpError,
    Unavailable,
)
from terpd.model.ids import SandboxId
from terpd.model.ports import MachinePhase, MachineSpec, StateRef
from terpd.model.snapshot import SavedState
from terpd.node.record import MachineRecord
from terpd.node.snapshot import state
from terpd.node.snapshot.memory import MemoryFailed
from terpd.node.supervisor import Supervisor
from terpd.node.vmm.base import VmmFailed

AWAKE, HELD = MachinePhase.AWAKE, MachinePhase.HELD


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as host:
        yield host


async def capture(supervisor: Supervisor, sandbox_id: SandboxId, into: StateRef, *, hold: bool) -> SavedState:
    return await supervisor.capture_machine(sandbox_id, key=key_of(sandbox_id), into=into, hold=hold)


async def started(supervisor: Supervisor) -> MachineSpec:
    wanted = spec()
    await supervisor.start_machine(wanted)
    return wanted


def assert_runs(host: Supervised, supervisor: Supervisor, sandbox_id: SandboxId) -> None:
    """As if nothing had happened: awake, reachable, and its record says nothing of a capture."""
    assert supervisor.list_machines()[sandbox_id] is AWAKE
    guest = host.guest(sandbox_id)
    assert guest.running.is_set()
    assert guest.state == "awake"
    assert guest.env == {"SECRET": "se-cr-et"}
    assert host.record(sandbox_id).capturing is None
    machine = supervisor.find(sandbox_id)
    assert machine is not None
    assert machine.answers
    assert machine.gate.is_open


# ---- pause, continue, resume


async def test_a_paused_machine_is_held_and_its_state_is_whole(host: Supervised) -> None:
    """It stands still, its calls are refused, and what was written can be read with the key alone."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        saved = await capture(supervisor, wanted.sandbox_id, into, hold=True)

        assert supervisor.list_machines() == {wanted.sandbox_id: HELD}
        assert not host.guest(wanted.sandbox_id).running.is_set()
        assert await supervisor.has_state(into.id)
        manifest = await state.read(host.artifacts, into.id, into.key)
        assert saved.stored_bytes == sum(
            (host.home / "artifacts" / part.name).stat().st_size for part in manifest.parts
        )
        with pytest.raises(StateConflict):
            await host.node(supervisor).stat_file(wanted.sandbox_id, "/workspace")
        with pytest.raises(StateConflict):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        assert supervisor._exits.empty()
        host.assert_empty()


async def test_a_held_machine_goes_on(host: Supervised) -> None:
    """With new entropy and its own names and environment; a second time there is nothing to do."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        guest = host.guest(wanted.sandbox_id)
        hostname, entropy = guest.hostname, list(guest.entropy)
        await capture(supervisor, wanted.sandbox_id, new_state(), hold=True)

        await supervisor.continue_machine(wanted.sandbox_id)
        await supervisor.continue_machine(wanted.sandbox_id)

        assert_runs(host, supervisor, wanted.sandbox_id)
        assert guest.hostname == hostname
        assert len(guest.entropy) == len(entropy) + 1


async def test_a_machine_that_cannot_go_on_is_ended_and_told(host: Supervised) -> None:
    """Its owner finds it lost, not held for ever."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        await capture(supervisor, wanted.sandbox_id, new_state(), hold=True)
        host.guest(wanted.sandbox_id).faults["run"] = VmmFailed("refused")
        with pytest.raises(GuestFault):
            await supervisor.continue_machine(wanted.sandbox_id)

        assert await anext(supervisor.exits()) == wanted.sandbox_id
        host.assert_empty()


async def test_a_held_machine_that_dies_is_told(host: Supervised) -> None:
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        await capture(supervisor, wanted.sandbox_id, new_state(), hold=True)
        host.guest(wanted.sandbox_id).process.kill()

        assert await anext(supervisor.exits()) == wanted.sandbox_id


async def test_a_resumed_machine_is_the_one_that_was_paused(host: Supervised) -> None:
    """With its memory, its names and its environment, *env* over it, on a layer of its own above those it had."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        before = host.guest(wanted.sandbox_id)
        await capture(supervisor, wanted.sandbox_id, into, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)

        resumed = replace(spec(sandbox_id=wanted.sandbox_id, state=into), env={"MORE": "1"})
        await supervisor.start_machine(resumed)

        guest = host.guest(wanted.sandbox_id)
        assert (guest.hostname, guest.env) == (before.hostname, {"SECRET": "se-cr-et", "MORE": "1"})
        assert set(guest.entropy).isdisjoint(before.entropy)
        assert host.sealer.injected == [(str(before.process.pid).encode(), guest.process)]
        assert len(guest.layers) == 2
        assert guest.layers[0].secret == before.layers[0].secret
        assert host.record(wanted.sandbox_id).secrets(wanted.key)
        assert await supervisor.has_state(into.id), "it is not used up"


async def test_a_claimed_warm_machine_can_be_paused(tmp_path: Path) -> None:
    """The secret of its disk is sealed under the key of the sandbox that claimed it."""
    async with supervised(tmp_path, targets={SMALL: 1}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 1)
        wanted = await started(supervisor)
        assert host.guest(wanted.sandbox_id).commands == ["echo warm"], "it was claimed"

        await capture(supervisor, wanted.sandbox_id, into := new_state(), hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into))


# ---- snapshot, fork


async def test_a_snapshots_source_runs_on_and_others_start_from_it(host: Supervised) -> None:
    """Children are others: names of their own, and told so; they and the source share what was frozen."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        saved = await capture(supervisor, wanted.sandbox_id, into, hold=False)

        assert_runs(host, supervisor, wanted.sandbox_id)
        assert saved.stopped_s > 0
        source = host.guest(wanted.sandbox_id)
        assert len(source.layers) == 2
        children = [spec(state=into, fork=True) for _ in range(3)]
        await asyncio.gather(*(supervisor.start_machine(child) for child in children))
        guests = [host.guest(child.sandbox_id) for child in children]
        assert len({guest.hostname for guest in [source, *guests]}) == 4
        assert all(guest.env == {"SECRET": "se-cr-et"} for guest in guests)
        assert {guest.layers[0].secret for guest in guests} == {source.layers[0].secret}
        assert len({layer.secret for guest in [source, *guests] for layer in guest.layers}) == 5


async def test_a_snapshot_stops_the_machine_for_no_longer_than_needed(host: Supervised) -> None:
    """It runs again before what was copied is written, and pushing the layer is the last thing before."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        writing = host.sealer.gates["finish"] = asyncio.Event()
        snapshot = asyncio.create_task(capture(supervisor, wanted.sandbox_id, new_state(), hold=False))
        await until(lambda: "finish" in host.sealer.acts)

        assert_runs(host, supervisor, wanted.sandbox_id)
        assert host.guest(wanted.sandbox_id).acts[-4:] == ["stop", "devices", "push_layer", "run"] or host.guest(
            wanted.sandbox_id
        ).acts[-5:] == ["stop", "devices", "push_layer", "run", "run"]
        writing.set()
        await snapshot


async def test_the_layers_of_a_chain_are_kept_once(host: Supervised) -> None:
    """A second snapshot keeps what the source wrote since the first."""
    first, second = new_state(), new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        await capture(supervisor, wanted.sandbox_id, first, hold=False)
        await capture(supervisor, wanted.sandbox_id, second, hold=False)

        one = await state.read(host.artifacts, first.id, first.key)
        two = await state.read(host.artifacts, second.id, second.key)
        assert list(two.layers)[:-1] == list(one.layers)
        assert len([name for name in host.stored() if name.startswith("layers/")]) == 2


async def test_calls_wait_for_a_snapshot_and_then_go_on(host: Supervised) -> None:
    """Also a capture waits for those that began before it."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        node = host.node(supervisor)
        copying = host.sealer.gates["copy"] = asyncio.Event()
        snapshot = asyncio.create_task(capture(supervisor, wanted.sandbox_id, new_state(), hold=False))
        await until(lambda: "copy" in host.sealer.acts)
        call = asyncio.create_task(node.signal(wanted.sandbox_id, "cmd_1", 1))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert not call.done()
        copying.set()
        await snapshot

        with pytest.raises(GuestFault, match="knows no exec_signal"):
            await call


# ---- what fails


FAULTS = [
    ("sealer", "open", MemoryFailed("no memory"), Unavailable),
    ("sealer", "copy", MemoryFailed("no memory"), Unavailable),
    ("sealer", "copy", StorageFull("full"), StorageFull),
    ("sealer", "finish", StorageFull("full"), StorageFull),
    ("vm", "stop", VmmFailed("refused"), Unavailable),
    ("vm", "devices", VmmFailed("refused"), Unavailable),
]


@pytest.mark.parametrize("hold", [True, False], ids=["pause", "snapshot"])
@pytest.mark.parametrize(("whose", "act", "fault", "seen"), FAULTS, ids=str)
async def test_a_capture_that_fails_is_undone(
    host: Supervised, whose: str, act: str, fault: Exception, seen: type[TerpError], *, hold: bool
) -> None:
    """The machine runs on, nothing of the state is left, and the next capture succeeds."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        faults = host.sealer.faults if whose == "sealer" else host.guest(wanted.sandbox_id).faults
        faults[act] = fault
        with pytest.raises(seen):
            await capture(supervisor, wanted.sandbox_id, into, hold=hold)

        assert_runs(host, supervisor, wanted.sandbox_id)
        assert not [name for name in host.stored() if str(into.id) in name]
        faults.clear()
        await capture(supervisor, wanted.sandbox_id, into, hold=hold)
        await supervisor.stop_machine(wanted.sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into))


@pytest.mark.parametrize("act", ["push_layer", "create_layer"])
async def test_a_snapshot_that_gets_no_layer_is_undone(host: Supervised, act: str) -> None:
    """Whether or not the monitor knows the new layer, what is saved next is right."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        faults = host.sealer.faults if act == "create_layer" else host.guest(wanted.sandbox_id).faults
        faults[act] = VmmFailed("refused")
        with pytest.raises(Unavailable):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)

        assert_runs(host, supervisor, wanted.sandbox_id)
        faults.clear()
        await capture(supervisor, wanted.sandbox_id, into := new_state(), hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into))


@pytest.mark.parametrize("hold", [True, False], ids=["pause", "snapshot"])
async def test_a_full_disk_is_told_before_anything_is_touched(
    host: Supervised, monkeypatch: pytest.MonkeyPatch, *, hold: bool
) -> None:
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        acts = list(host.guest(wanted.sandbox_id).acts)
        monkeypatch.setattr(host.artifacts, "free_bytes", lambda: 1 << 20)
        with pytest.raises(StorageFull):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=hold)

        assert_runs(host, supervisor, wanted.sandbox_id)
        assert host.guest(wanted.sandbox_id).acts == acts


@pytest.mark.parametrize("part", ["memory", "devices", "layers", "manifest.json"])
async def test_a_store_that_takes_no_more_leaves_a_machine_that_runs(
    host: Supervised, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Whichever part it is."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        keep, put = host.artifacts.keep, host.artifacts.put

        async def full_keep(info: state.ArtifactInfo, path: Path) -> None:
            if part in info.name:
                raise StorageFull("full")
            await keep(info, path)

        async def full_put(name: str, content: bytes) -> None:
            if part in name:
                raise StorageFull("full")
            await put(name, content)

        with monkeypatch.context() as patch:
            patch.setattr(host.artifacts, "keep", full_keep)
            patch.setattr(host.artifacts, "put", full_put)
            with pytest.raises(StorageFull):
                await capture(supervisor, wanted.sandbox_id, into, hold=True)

        assert_runs(host, supervisor, wanted.sandbox_id)
        assert not await supervisor.has_state(into.id)
        await supervisor.collect([])
        assert host.stored() == set()


async def test_a_guest_that_does_not_freeze_is_not_saved(host: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not even wake again is ended, and told."""
    monkeypatch.setattr("terpd.node.snapshot.capture._FREEZE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("terpd.node.machine.WAKE_TIMEOUT_S", 0.05)
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        host.guest(wanted.sandbox_id).mute = True
        with pytest.raises(GuestFault):
            await capture(supervisor, wanted.sandbox_id, into := new_state(), hold=True)

        assert await anext(supervisor.exits()) == wanted.sandbox_id
        assert not await supervisor.has_state(into.id)
        host.assert_empty()


@pytest.mark.parametrize("hold", [True, False], ids=["pause", "snapshot"])
@pytest.mark.parametrize("act", ["open", "copy", "finish"])
async def test_stop_ends_a_capture_too(host: Supervised, act: str, *, hold: bool) -> None:
    """On return there is neither machine nor state; whoever saved it is told."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        host.sealer.gates[act] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id, into, hold=hold))
        await until(lambda: act in host.sealer.acts)

        await supervisor.stop_machine(wanted.sandbox_id)

        host.assert_empty()
        assert host.stored() == set()
        with pytest.raises(StateConflict):
            await saving
        assert supervisor._exits.empty()


async def test_a_machine_that_dies_while_it_is_saved_is_told(host: Supervised) -> None:
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        copying = host.sealer.gates["copy"] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id, into, hold=True))
        await until(lambda: "copy" in host.sealer.acts)
        host.guest(wanted.sandbox_id).process.kill()
        copying.set()
        with pytest.raises(GuestFault):
            await saving

        assert await anext(supervisor.exits()) == wanted.sandbox_id
        assert host.stored() == set()


@pytest.mark.parametrize("act", ["open", "copy", "finish"])
async def test_a_caller_that_goes_away_undoes_its_capture(host: Supervised, act: str) -> None:
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        gate = host.sealer.gates[act] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id, new_state(), hold=True))
        await until(lambda: act in host.sealer.acts)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving

        assert_runs(host, supervisor, wanted.sandbox_id)
        gate.set()
        await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)


async def test_a_second_capture_at_the_same_time_is_refused(host: Supervised) -> None:
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        gate = host.sealer.gates["finish"] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id, new_state(), hold=True))
        await until(lambda: "finish" in host.sealer.acts)
        with pytest.raises(StateConflict):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)
        with pytest.raises(StateConflict):
            await supervisor.continue_machine(wanted.sandbox_id)
        gate.set()
        await saving


# ---- states that cannot be used


async def test_a_state_that_is_not_whole_or_not_ours_is_refused(host: Supervised) -> None:
    """Says which part; nothing was started."""
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        await capture(supervisor, wanted.sandbox_id, into, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        resume = spec(sandbox_id=wanted.sandbox_id, state=into)
        artifacts = host.home / "artifacts"

        with pytest.raises(StateDamaged, match="does not open with its key"):
            await supervisor.start_machine(replace(resume, state=StateRef(into.id, bytes(32))))
        with pytest.raises(StateDamaged, match="missing"):
            await supervisor.start_machine(replace(resume, state=new_state()))
        memory = artifacts / state.memory_name(into.id)
        content = memory.read_bytes()
        memory.unlink()
        memory.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StateDamaged, match="memory"):
            await supervisor.start_machine(resume)
        memory.unlink()
        with pytest.raises(StateDamaged, match="memory"):
            await supervisor.start_machine(resume)

        host.assert_empty()


async def test_a_state_of_another_processor_is_refused(host: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    into = new_state()
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        await capture(supervisor, wanted.sandbox_id, into, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        monkeypatch.setattr(host.vmm, "build", {"simulated": "2"})
        with pytest.raises(StateMismatch, match="simulated"):
            await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into))

        host.assert_empty()


# ---- the next daemon


POINTS = [
    ("sealer", "open"),
    ("vm", "stop"),
    ("vm", "devices"),
    ("sealer", "copy"),
    ("vm", "push_layer"),
    ("vm", "run"),
]


@pytest.mark.parametrize(("whose", "act"), POINTS)
@pytest.mark.parametrize("hold", [True, False], ids=["pause", "snapshot"])
async def test_a_daemon_that_dies_during_a_capture_loses_nothing(
    host: Supervised, whose: str, act: str, *, hold: bool
) -> None:
    """The next one neither reaps the machine nor lets it run unasked; told to, it runs, and can be saved again."""
    if hold and act in {"push_layer", "run"}:
        pytest.skip("a pause does neither")
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        gates = host.sealer.gates if whose == "sealer" else host.guest(wanted.sandbox_id).gates
        acts = host.sealer.acts if whose == "sealer" else host.guest(wanted.sandbox_id).acts
        gates[act] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id, into := new_state(), hold=hold))
        await until(lambda: act in acts)
        await host.abandon(supervisor, saving)
        gates.clear()

    async with host.daemon() as supervisor:
        phase = supervisor.list_machines()[wanted.sandbox_id]
        assert phase is (AWAKE if act == "finish" and not hold else HELD)
        assert not await supervisor.has_state(into.id)
        await supervisor.continue_machine(wanted.sandbox_id)
        assert_runs(host, supervisor, wanted.sandbox_id)
        await supervisor.collect([])
        await capture(supervisor, wanted.sandbox_id, into, hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into))
        assert_runs(host, supervisor, wanted.sandbox_id)


async def test_a_held_machine_is_adopted_held(host: Supervised) -> None:
    """Its state may count or not: that is for the store to say."""
    into = new_state()
    async with host.daemon(stop_machines=False) as supervisor:
        wanted = await started(supervisor)
        await capture(supervisor, wanted.sandbox_id, into, hold=True)
    async with host.daemon() as supervisor:
        assert supervisor.list_machines() == {wanted.sandbox_id: HELD}
        assert await supervisor.has_state(into.id)
        with pytest.raises(StateConflict):
            await host.node(supervisor).stats(wanted.sandbox_id)
        await supervisor.stop_machine(wanted.sandbox_id)
        host.assert_empty()


async def test_a_daemon_that_stops_undoes_a_capture(host: Supervised) -> None:
    """The machine is left running for the next."""
    async with host.daemon(stop_machines=False) as supervisor:
        wanted = await started(supervisor)
        host.sealer.gates["copy"] = asyncio.Event()
        saving = asyncio.create_task(capture(supervisor, wanted.sandbox_id, new_state(), hold=True))
        await until(lambda: "copy" in host.sealer.acts)
    with pytest.raises(Unavailable):
        await saving
    async with host.daemon() as supervisor:
        assert_runs(host, supervisor, wanted.sandbox_id)


async def test_a_machine_of_an_earlier_release_is_adopted_but_not_saved(host: Supervised) -> None:
    async with host.daemon(stop_machines=False) as supervisor:
        wanted = await started(supervisor)
    record = host.record(wanted.sandbox_id)
    old = replace(record, layers=(), sealed="")
    old.write(host.machines / record.machine_id)
    async with host.daemon() as supervisor:
        assert supervisor.list_machines() == {wanted.sandbox_id: AWAKE}
        with pytest.raises(StateConflict, match="earlier release"):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=True)


async def test_a_record_of_another_release_is_read(tmp_path: Path) -> None:
    """What it does not know is left out; what is missing means what it meant then."""
    (tmp_path / "record.json").write_text(
        '{"machine_id": "m_1", "sandbox_id": "sbx_1", "template": "t", "size": "s", "memory_mib": 1, "uid": 2,'
        ' "pid": 3, "started": 4, "future": 5}'
    )

    record = MachineRecord.find(tmp_path)

    assert record is not None
    assert (record.awake, record.layers, record.capturing) == (True, (), None)


# ---- long chains


async def test_a_long_chain_is_flattened_and_can_still_be_saved(host: Supervised) -> None:
    """What a resume adds goes again in the background; what is dropped is in no record."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        sandbox_id = wanted.sandbox_id
        for _ in range(5):
            await capture(supervisor, sandbox_id, into := new_state(), hold=True)
            await supervisor.stop_machine(sandbox_id)
            await supervisor.start_machine(spec(sandbox_id=sandbox_id, state=into))
        await until(lambda: len(host.record(sandbox_id).layers) == 1)
        assert len(host.guest(sandbox_id).layers) == 1

        await capture(supervisor, sandbox_id, into := new_state(), hold=True)
        await supervisor.collect([into.id])

        assert len([name for name in host.stored() if name.startswith("layers/")]) == 1
        await supervisor.stop_machine(sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=sandbox_id, state=into))


async def test_flattening_gives_way_to_a_capture_and_to_the_end(host: Supervised) -> None:
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        guest = host.guest(wanted.sandbox_id)
        guest.gates["flatten"] = asyncio.Event()
        for _ in range(5):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)
        await until(lambda: "flatten" in guest.acts)

        await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)

        assert len(host.record(wanted.sandbox_id).layers) == 7
        await until(lambda: guest.acts[-1] == "flatten")
        await supervisor.stop_machine(wanted.sandbox_id)
        host.assert_empty()


async def test_a_chain_at_its_limit_is_flattened_first(host: Supervised) -> None:
    """Or the snapshot is refused; a pause needs no further layer."""
    async with host.daemon() as supervisor:
        wanted = await started(supervisor)
        guest = host.guest(wanted.sandbox_id)
        guest.faults["flatten"] = VmmFailed("refused")
        for _ in range(16):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)
        with pytest.raises(Unavailable, match="pause and resume"):
            await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)
        assert_runs(host, supervisor, wanted.sandbox_id)
        await capture(supervisor, wanted.sandbox_id, into := new_state(), hold=True)
        await supervisor.stop_machine(wanted.sandbox_id)
        await supervisor.start_machine(spec(sandbox_id=wanted.sandbox_id, state=into))
        await capture(supervisor, wanted.sandbox_id, new_state(), hold=False)

        assert len(host.record(wanted.sandbox_id).layers) <= 2
