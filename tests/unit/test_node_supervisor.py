"""Which machines there are: starts, stops and ends, whatever else happens at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.supervised import LARGE, SMALL, UNBUILT, Supervised, spec, supervised
from support.until import until

from terpd.model.errors import (
    AlreadyExists,
    CapacityUnavailable,
    GuestFault,
    StateConflict,
    StorageFull,
    TemplateNotFound,
    TerpError,
    Unavailable,
)
from terpd.node.record import MachineRecord
from terpd.node.vmm.base import VmmFailed


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Supervised]:
    async with supervised(tmp_path) as host:
        yield host


# ---- start


async def test_a_started_machine_is_awake_and_its_sandboxes_alone(host: Supervised) -> None:
    """Its guest has the sandbox's name and environment and entropy of its own; its record names the sandbox."""
    one, two = spec(), spec()
    async with host.daemon() as supervisor:
        await asyncio.gather(supervisor.start_machine(one), supervisor.start_machine(two))

        assert set(supervisor.list_machines()) == {one.sandbox_id, two.sandbox_id}
        guest = host.guest(one.sandbox_id)
        assert (guest.state, guest.env) == ("awake", {"SECRET": "se-cr-et"})
        assert guest.hostname == one.sandbox_id.removeprefix("sbx_").lower()
        assert guest.entropy != host.guest(two.sandbox_id).entropy
        assert host.record(one.sandbox_id).uid != host.record(two.sandbox_id).uid
        assert "se-cr-et" not in (host.machines / host.record(one.sandbox_id).machine_id / "record.json").read_text()


async def test_a_second_start_of_the_same_sandbox_is_refused(host: Supervised) -> None:
    """While the first is under way and when it is done; the first is not disturbed."""
    wanted = spec()
    async with host.daemon() as supervisor:
        host.vmm.gate.clear()
        first = asyncio.create_task(supervisor.start_machine(wanted))
        await until(lambda: host.vmm.waiting)
        with pytest.raises(AlreadyExists):
            await supervisor.start_machine(wanted)
        host.vmm.gate.set()
        await first
        with pytest.raises(AlreadyExists):
            await supervisor.start_machine(wanted)

        assert len(host.vmm.started) == 1


@pytest.mark.parametrize(
    ("failure", "seen"),
    [(VmmFailed("refused"), GuestFault), (OSError(28, "No space left on device"), StorageFull)],
    ids=repr,
)
async def test_a_monitor_that_does_not_start_leaves_nothing(
    host: Supervised, failure: Exception, seen: type[TerpError]
) -> None:
    """The caller is not told the monitor's words."""
    async with host.daemon() as supervisor:
        host.vmm.failure = failure
        with pytest.raises(seen) as caught:
            await supervisor.start_machine(spec())

        assert str(failure) not in caught.value.detail
        host.assert_empty()


async def test_a_guest_that_breaks_off_at_its_wake_leaves_nothing(host: Supervised) -> None:
    """What did not confirm is not handed out."""
    async with host.daemon() as supervisor:
        host.vmm.gate.clear()
        start = asyncio.create_task(supervisor.start_machine(spec()))
        await until(lambda: host.vmm.waiting)
        host.vmm.mute = True
        host.vmm.gate.set()
        await until(lambda: host.vmm.guests)
        next(iter(host.vmm.guests.values())).process.kill()
        with pytest.raises(GuestFault):
            await start

        assert list(supervisor.list_machines()) == []
        host.assert_empty()


async def test_a_record_that_cannot_be_written_leaves_nothing(
    host: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up between the launch and the record of it: the monitor must not run on unrecorded."""
    write = MachineRecord.write

    def full(self: MachineRecord, directory: Path) -> None:
        if self.pid is not None:
            raise OSError(28, "No space left on device")
        write(self, directory)

    monkeypatch.setattr(MachineRecord, "write", full)
    async with host.daemon() as supervisor:
        with pytest.raises(StorageFull):
            await supervisor.start_machine(spec())

        assert len(host.vmm.started) == 1
        host.assert_empty()


async def test_an_unknown_template_is_refused_and_charges_nothing(host: Supervised) -> None:
    """Nothing was started."""
    async with host.daemon() as supervisor:
        with pytest.raises(TemplateNotFound):
            await supervisor.start_machine(spec(template="unbuilt"))

        host.assert_empty()


async def test_a_full_node_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    """By the number of machines; what is refused costs nothing."""
    async with supervised(tmp_path, machines_cap=1) as host, host.daemon() as supervisor:
        running = spec()
        await supervisor.start_machine(running)
        with pytest.raises(CapacityUnavailable):
            await supervisor.start_machine(spec())

        assert list(supervisor.list_machines()) == [running.sandbox_id]
        assert host.admission.capacity().machines_used == 1
        await supervisor.stop_machine(running.sandbox_id)
        await supervisor.start_machine(spec())


async def test_running_out_of_uids_charges_nothing(tmp_path: Path) -> None:
    """A start that is refused for a uid gives back the memory that it was admitted with."""
    async with supervised(tmp_path, uid_count=1) as host, host.daemon() as supervisor:
        if host.uids._shared is not None:
            pytest.skip("needs root: otherwise all machines have one uid")
        await supervisor.start_machine(spec())
        with pytest.raises(CapacityUnavailable):
            await supervisor.start_machine(spec())

        assert host.admission.capacity().machines_used == 1


# ---- stop and end


async def test_stop_removes_all_and_may_be_repeated_at_the_same_time(host: Supervised) -> None:
    """Every caller returns when the machine is gone, and room and uid are given back once."""
    wanted = spec()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(wanted)

        await asyncio.gather(*(supervisor.stop_machine(wanted.sandbox_id) for _ in range(3)))
        host.assert_empty()
        await supervisor.stop_machine(wanted.sandbox_id)

        assert supervisor._exits.empty(), "a stop is no exit"


async def test_stop_while_it_starts_ends_the_start(host: Supervised) -> None:
    """On return there is no machine and none will come; who started it is told."""
    wanted = spec()
    async with host.daemon() as supervisor:
        host.vmm.gate.clear()
        start = asyncio.create_task(supervisor.start_machine(wanted))
        await until(lambda: host.vmm.waiting)

        await supervisor.stop_machine(wanted.sandbox_id)

        host.assert_empty()
        with pytest.raises(StateConflict):
            await start
        host.vmm.gate.set()
        await supervisor.start_machine(wanted)


async def test_stop_while_the_guest_wakes_ends_the_start(host: Supervised) -> None:
    """The same when the monitor runs already."""
    wanted = spec()
    async with host.daemon() as supervisor:
        host.vmm.mute = True
        start = asyncio.create_task(supervisor.start_machine(wanted))
        await until(lambda: any(guest.sessions for guest in host.vmm.guests.values()))

        await supervisor.stop_machine(wanted.sandbox_id)

        host.assert_empty()
        with pytest.raises(StateConflict):
            await start


async def test_a_caller_that_goes_away_takes_its_start_along(host: Supervised) -> None:
    """Cancellation is passed on, cleaned up after, and not turned into an error."""
    async with host.daemon() as supervisor:
        host.vmm.gate.clear()
        start = asyncio.create_task(supervisor.start_machine(spec()))
        await until(lambda: host.vmm.waiting)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

        host.assert_empty()


async def test_a_machine_that_ends_by_itself_is_removed_and_told_once(host: Supervised) -> None:
    """After its remains are gone; other machines go on."""
    lost, staying = spec(), spec()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(lost)
        await supervisor.start_machine(staying)
        host.guest(lost.sandbox_id).process.kill()

        assert await anext(supervisor.exits()) == lost.sandbox_id

        assert list(supervisor.list_machines()) == [staying.sandbox_id]
        assert host.admission.capacity().machines_used == 1
        assert [record.sandbox_id for record in host.records()] == [staying.sandbox_id]
        assert supervisor._exits.empty()


async def test_stop_and_end_at_the_same_moment_give_back_once(host: Supervised) -> None:
    """Whoever is first: nothing is charged, nothing given back twice, no uid of another machine freed."""
    async with host.daemon() as supervisor:
        for _ in range(10):
            wanted = spec()
            await supervisor.start_machine(wanted)
            host.guest(wanted.sandbox_id).process.kill()
            stop = asyncio.create_task(supervisor.stop_machine(wanted.sandbox_id))
            following = spec()
            await supervisor.start_machine(following)
            await stop
            assert host.admission.capacity().machines_used == 1
            assert len(host.uids._taken) in (0, 1)
            await supervisor.stop_machine(following.sandbox_id)

        host.assert_empty()


async def test_remains_that_resist_do_not_hold_up_the_stop(host: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left to the next start; whoever stops must not wait for ever."""
    wanted = spec()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(wanted)
        with monkeypatch.context() as patch:
            patch.setattr("terpd.node.facilities.shutil.rmtree", _refuse)
            await supervisor.stop_machine(wanted.sandbox_id)

        assert list(supervisor.list_machines()) == []
        assert host.admission.capacity().machines_used == 0
    async with host.daemon():
        host.assert_empty()


def _refuse(path: Path) -> None:
    raise RuntimeError(f"not even an OSError: {path}")


# ---- guests that break off


async def test_a_sandboxes_guest_that_breaks_off_is_reached_again(host: Supervised) -> None:
    """Its machine runs on; calls meanwhile are a GuestFault."""
    wanted = spec()
    async with host.daemon() as supervisor:
        await supervisor.start_machine(wanted)
        machine = supervisor.find(wanted.sandbox_id)
        assert machine is not None
        guest = host.guest(wanted.sandbox_id)
        guest.hang_up = True
        with pytest.raises(GuestFault):
            await machine.guest.ping()
        with pytest.raises(GuestFault):
            _ = machine.guest

        await until(lambda: guest.sessions > 1 and machine.answers)
        await machine.guest.ping()

        assert guest.process.alive()


# ---- pools


async def test_pools_are_filled_and_a_claim_is_refilled(tmp_path: Path) -> None:
    """A warm machine has run the warm commands; at its claim it gets name, environment and entropy anew."""
    async with supervised(tmp_path, targets={SMALL: 2}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 2)
        started = len(host.vmm.started)
        wanted = spec()

        await supervisor.start_machine(wanted)

        guest = host.guest(wanted.sandbox_id)
        assert guest.name == host.vmm.started[0], "the one that waited longest"
        assert guest.commands == ["echo warm"]
        assert guest.env == {"SECRET": "se-cr-et"}
        assert guest.hostname == wanted.sandbox_id.removeprefix("sbx_").lower()
        assert len(set(guest.entropy)) == len(guest.entropy)
        await until(lambda: supervisor.count_warm() == 2)
        assert len(host.vmm.started) == started + 1


async def test_a_warm_machine_that_ends_is_replaced(tmp_path: Path) -> None:
    """Nobody is told, for it was nobody's."""
    async with supervised(tmp_path, targets={SMALL: 1}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 1)
        host.vmm.guests[host.vmm.started[0]].process.kill()

        await until(lambda: len(host.vmm.started) == 2 and supervisor.count_warm() == 1)

        assert host.admission.capacity().machines_used == 1
        assert supervisor._exits.empty()


async def test_a_warm_machine_whose_guest_is_lost_is_replaced(tmp_path: Path) -> None:
    """It would else wait for ever, and count as warm."""
    async with supervised(tmp_path, targets={SMALL: 1}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 1)
        (machine,) = host.pool.waiting()
        machine.guest._channel.fail("for the test")

        assert host.pool.claim(SMALL) is None, "it does not answer"
        await until(lambda: len(host.vmm.started) == 2 and supervisor.count_warm() == 1)

        assert not machine.answers


async def test_a_claim_of_a_machine_that_just_died_gets_another(tmp_path: Path) -> None:
    """It broke while it waited, which is no fault of who asked."""
    async with supervised(tmp_path, targets={SMALL: 1}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 1)
        host.vmm.guests[host.vmm.started[0]].process.kill()  # the supervisor has not been told yet
        wanted = spec()

        await supervisor.start_machine(wanted)

        assert host.guest(wanted.sandbox_id).state == "awake"
        await until(lambda: supervisor.count_warm() == 1)
        assert host.admission.capacity().machines_used == 2


async def test_a_claim_that_cannot_be_recorded_gives_the_machine_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose record still says that it is nobody's must not run for a sandbox, nor be lost from sight."""

    def full(self: MachineRecord, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    async with supervised(tmp_path, targets={SMALL: 1}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 1)
        monkeypatch.setattr(MachineRecord, "write", full)
        with pytest.raises(StorageFull):
            await supervisor.start_machine(spec())

        host.assert_empty()


async def test_warm_machines_make_room_for_sandboxes(tmp_path: Path) -> None:
    """Of another kind, too; the pool is filled again only when there is room."""
    async with supervised(tmp_path, machines_cap=2, targets={SMALL: 2}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 2)
        wanted = spec("large")

        await supervisor.start_machine(wanted)

        assert list(supervisor.list_machines()) == [wanted.sandbox_id]
        assert supervisor.count_warm() == 1
        await supervisor.stop_machine(wanted.sandbox_id)
        await until(lambda: supervisor.count_warm() == 2)


async def test_no_warm_machine_is_given_up_in_vain(tmp_path: Path) -> None:
    """A size that does not fit even then is refused, and the pool stays as it is."""
    async with (
        supervised(tmp_path, memory_cap_mib=800, targets={SMALL: 1}) as host,
        host.daemon() as supervisor,
    ):
        await until(lambda: supervisor.count_warm() == 1)
        await supervisor.start_machine(spec(template="debian-12", size="small"))
        await until(lambda: supervisor.count_warm() == 1)
        with pytest.raises(CapacityUnavailable):
            await supervisor.start_machine(spec("large"))

        assert supervisor.count_warm() == 1


async def test_a_kind_that_cannot_be_started_does_not_keep_out_the_others(tmp_path: Path) -> None:
    """A template that is not built, wanted most, is tried again later."""
    async with supervised(tmp_path, targets={UNBUILT: 3, SMALL: 1, LARGE: 1}, memory_cap_mib=1600) as host:
        async with host.daemon() as supervisor:
            await until(lambda: supervisor.count_warm() == 2)
        host.assert_empty()


async def test_what_fails_unexpectedly_does_not_end_the_filling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools are full again once the trouble is over."""
    monkeypatch.setattr("terpd.node.filler._RETRY_S", 0.01)
    async with supervised(tmp_path, targets={SMALL: 1}) as host, host.daemon() as supervisor:
        await until(lambda: supervisor.count_warm() == 1)
        host.vmm.failure = RuntimeError("a bug")
        failures = host.vmm.failures
        await supervisor.start_machine(spec())
        await until(lambda: host.vmm.failures > failures)
        host.vmm.failure = None

        await until(lambda: supervisor.count_warm() == 1)


# ---- closing


async def test_close_undoes_starts_under_way(host: Supervised) -> None:
    """Nobody waits for ever: their callers are told to try again, and nothing is left."""
    async with host.daemon(stop_machines=False) as supervisor:
        host.vmm.mute = True
        starts = [asyncio.create_task(supervisor.start_machine(spec())) for _ in range(3)]
        await until(lambda: host.running() == 2 or host.running() == 3)
    results = await asyncio.gather(*starts, return_exceptions=True)

    assert [type(result) for result in results] == [Unavailable] * 3
    host.assert_empty()
    with pytest.raises(Unavailable):
        await supervisor.start_machine(spec())


@pytest.mark.parametrize("stop_machines", [True, False])
async def test_close_while_pools_are_filled_leaves_no_warm_machine(tmp_path: Path, *, stop_machines: bool) -> None:
    """Whether it starts, warms up or waits."""
    async with supervised(tmp_path, targets={SMALL: 4}) as host:
        async with host.daemon(stop_machines=stop_machines):
            await until(lambda: host.vmm.started)
        host.assert_empty()
        async with host.daemon(stop_machines=stop_machines) as supervisor:
            await until(lambda: supervisor.count_warm() >= 1)
        host.assert_empty()


async def test_a_task_that_is_left_at_the_end_of_the_loop_can_still_end(host: Supervised) -> None:
    """When the loop cancels everything at once, a machine's driver too, who stops it must not wait for ever."""
    async with host.daemon() as supervisor:
        wanted = spec()
        await supervisor.start_machine(wanted)
        machine = supervisor.find(wanted.sandbox_id)
        assert machine is not None
        machine._driver.cancel()
        await asyncio.wait_for(machine.stop(), 60)


# ---- the next daemon


async def test_a_sandboxes_machine_is_adopted_with_all_that_it_has(host: Supervised) -> None:
    """The next daemon lists it, counts it, keeps its uid, reaches its guest and can stop it."""
    wanted = spec()
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
        record = host.record(wanted.sandbox_id)
    assert host.running() == 1

    async with host.daemon() as supervisor:
        assert list(supervisor.list_machines()) == [wanted.sandbox_id]
        machine = supervisor.find(wanted.sandbox_id)
        assert machine is not None
        await machine.guest.ping()
        assert host.admission.capacity().machines_used == 1
        if host.uids._shared is None:
            assert host.uids._taken == {record.uid}
        with pytest.raises(AlreadyExists):
            await supervisor.start_machine(wanted)
        await supervisor.stop_machine(wanted.sandbox_id)
        host.assert_empty()


async def test_an_adopted_machine_that_ends_is_told(host: Supervised) -> None:
    """It is watched like any other."""
    wanted = spec()
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
    async with host.daemon() as supervisor:
        host.guest(wanted.sandbox_id).process.kill()

        assert await anext(supervisor.exits()) == wanted.sandbox_id
        host.assert_empty()


async def test_a_silent_guest_is_adopted_and_reached_later(host: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that is busy at that moment must not cost its owner the sandbox, nor hold up the start for long."""
    monkeypatch.setattr("terpd.node.machine._ADOPT_TIMEOUT_S", 0.01)
    wanted = spec()
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
    guest = host.guest(wanted.sandbox_id)
    guest.mute = True

    async with host.daemon() as supervisor:
        machine = supervisor.find(wanted.sandbox_id)
        assert machine is not None
        with pytest.raises(GuestFault):
            _ = machine.guest
        guest.mute = False
        monkeypatch.setattr("terpd.node.link.WAKE_TIMEOUT_S", 1.0)

        await until(lambda: machine.answers)


async def test_what_nobody_owns_is_reaped(host: Supervised) -> None:
    """A dead daemon's warm machine, one launched but not recorded, one never woken, rubbish: all of it goes."""
    kept, unwoken, warm, unrecorded = spec(), spec(), spec(), spec()
    async with host.daemon(stop_machines=False) as supervisor:
        for each in (kept, unwoken, warm, unrecorded):
            await supervisor.start_machine(each)
    host.guest(unwoken.sandbox_id).state = "frozen"
    for wanted, changes in (
        (unwoken, {"awake": False}),
        (warm, {"sandbox_id": None}),
        (unrecorded, {"pid": None, "started": None}),
    ):
        record = host.record(wanted.sandbox_id)
        replace(record, **changes).write(host.machines / record.machine_id)
    (host.machines / "m_empty").mkdir()
    (host.machines / "m_torn").mkdir()
    (host.machines / "m_torn" / "record.json").write_text('{"machine_id": "m_')
    assert host.running() == 4

    async with host.daemon() as supervisor:
        assert list(supervisor.list_machines()) == [kept.sandbox_id]
        assert host.running() == 1
        assert [record.sandbox_id for record in host.records()] == [kept.sandbox_id]
        assert len(list(host.machines.iterdir())) == 1
        assert host.admission.capacity().machines_used == 1


async def test_a_directory_that_cannot_be_removed_does_not_keep_the_daemon_down(
    host: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are served; it is tried again at the next start."""
    wanted = spec()
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
    (host.machines / "m_stuck").mkdir()

    def refuse(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("terpd.node.facilities.shutil.rmtree", refuse)
        async with host.daemon(stop_machines=False) as supervisor:
            assert list(supervisor.list_machines()) == [wanted.sandbox_id]
    async with host.daemon() as supervisor:
        assert [path.name for path in host.machines.iterdir()] == [host.record(wanted.sandbox_id).machine_id]


async def test_two_machines_of_one_sandbox_become_one(host: Supervised) -> None:
    """A daemon that died while it went over from a broken warm machine to a fresh one leaves two."""
    wanted, other = spec(), spec()
    async with host.daemon(stop_machines=False) as supervisor:
        await supervisor.start_machine(wanted)
        await supervisor.start_machine(other)
        record = host.record(other.sandbox_id)
        record.claimed_by(wanted.sandbox_id).write(host.machines / record.machine_id)

    async with host.daemon() as supervisor:
        assert list(supervisor.list_machines()) == [wanted.sandbox_id]
        assert host.running() == 1
        assert len(host.records()) == 1
        assert host.admission.capacity().machines_used == 1
