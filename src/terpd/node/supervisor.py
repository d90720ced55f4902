"""
Which machines exist on this host: starts, saves and stops them, fills the pools, adopts and reaps after a restart.

After a restart every directory under `machines/`, every process with our marker and every cgroup of ours is looked at
once: a machine with a readable record, a sandbox and a guest that was woken is adopted; anything else is removed. Warm
machines that nobody had claimed are removed too and started afresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace

import structlog

from terpd.model.errors import AlreadyExists, GuestFault, StateConflict, StorageFull, TerpError, Unavailable
from terpd.model.ids import SandboxId, StateId
from terpd.model.ports import MachinePhase, MachineSpec, StateRef
from terpd.model.sandbox import Size
from terpd.model.snapshot import SavedState
from terpd.node.admission import Admission
from terpd.node.facilities import Facilities
from terpd.node.filler import Filler
from terpd.node.jail.process import Process
from terpd.node.jail.uids import UidRange
from terpd.node.link import going_on
from terpd.node.machine import Machine, first_wake
from terpd.node.metering import Meter
from terpd.node.pool import Pool, PoolKey
from terpd.node.record import MachineRecord
from terpd.node.snapshot import state
from terpd.node.snapshot.captures import Captures
from terpd.node.snapshot.collect import Collector, InUse
from terpd.node.snapshot.flatten import Flattener
from terpd.node.snapshot.pins import Pins
from terpd.node.snapshot.template import TemplateSnapshots
from terpd.node.starter import Starter, owner_of
from terpd.node.template.catalog import Catalog
from terpd.node.vmm.base import Layer, VmmFailed

log = structlog.get_logger()

_DETACH_TIMEOUT_S = 5.0  # for a guest to write its volume out before its machine ends
_REAP_TIMEOUT_S = 10.0  # for a process to die of SIGKILL; one that hangs in the kernel must not keep the daemon down


class Supervisor:
    """
    Args:
        sizes: By name; a pool may only name these.
        starts_at_once: How many machines may be restoring at the same time; more only make each other slower.
    """

    def __init__(
        self,
        facilities: Facilities,
        catalog: Catalog,
        snapshots: TemplateSnapshots,
        admission: Admission,
        uids: UidRange,
        pool: Pool,
        sizes: Mapping[str, Size],
        *,
        starts_at_once: int,
    ) -> None:
        self._facilities = facilities
        self._admission = admission
        self._uids = uids
        self._pool = pool
        self._machines: dict[str, Machine] = {}
        self._sandboxes: dict[SandboxId, Machine] = {}
        self._starts: dict[SandboxId, asyncio.Task[None]] = {}
        self._exits: asyncio.Queue[SandboxId] = asyncio.Queue()
        self._filling: asyncio.Task[None] | None = None
        self._metering: asyncio.Task[None] | None = None
        self.meter = Meter(facilities)
        self._closing = False
        pins = Pins(snapshots.home, facilities.owner)
        self._starter = Starter(
            facilities, catalog, snapshots, admission, uids, pins, at_once=starts_at_once, on_exit=self._ended
        )
        self._filler = Filler(pool, sizes, admission, self._starter, self._machines, lambda: bool(self._starts))
        self._flattener = Flattener(facilities)
        self._captures = Captures(facilities, snapshots, self._flattener)
        self._collector = Collector(facilities, pins, self._in_use)

    # ---- life of the daemon ----------------------------------------------------------------------

    async def open(self) -> None:
        """Adopt what runs, reap what has no owner, then start filling the pools."""
        self._facilities.machines.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._facilities.networks.open()
        await self._facilities.volumes.open()
        await self._facilities.vmm.sweep()
        await self._reap_unrecorded()
        directories = [each for each in self._facilities.machines.iterdir() if each.is_dir()]
        await asyncio.gather(*(self._adopt_or_reap(each.name) for each in directories))
        self._filling = asyncio.create_task(self._filler.run(), name="pools")
        self._metering = asyncio.create_task(self.meter.run(), name="meter")

    async def close(self, *, stop_machines: bool) -> None:
        """
        Stop the warm machines, and all others too if asked; what runs on is adopted by the next daemon.

        Starts and captures under way are undone; their callers get Unavailable, and so does who asks for another.
        """
        self._closing = True
        under_way = [*self._starts.values(), *(task for task in (self._filling, self._metering) if task)]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, self._captures.close(), return_exceptions=True)
        await self._flattener.close()
        machines = list(self._machines.values())
        ending = [machine for machine in machines if stop_machines or machine.record.sandbox_id is None]
        staying = [machine for machine in machines if machine not in ending]
        await asyncio.gather(*(machine.detach_volume(timeout_s=_DETACH_TIMEOUT_S) for machine in ending))
        stopped = await asyncio.gather(*(machine.stop() for machine in ending), return_exceptions=True)
        for machine, result in zip(ending, stopped, strict=True):
            if isinstance(result, BaseException):
                log.error("machine not stopped", machine=machine.id, why=str(result))
        await self.meter.keep()
        await asyncio.gather(*(machine.release() for machine in staying))
        await self._facilities.networks.close()
        await asyncio.to_thread(self._facilities.cgroups.close)

    # ---- machines of sandboxes; as the methods of the Node port ----------------------------------

    async def start_machine(self, spec: MachineSpec) -> None:
        if self._closing:
            raise Unavailable("This node is stopping; try again")
        if spec.sandbox_id in self._sandboxes or spec.sandbox_id in self._starts:
            raise AlreadyExists(f"Sandbox {spec.sandbox_id} has a machine already")
        # A task of its own, which stop_machine and close can cancel without cancelling the caller.
        start = self._starts[spec.sandbox_id] = asyncio.create_task(self._start(spec), name=f"start {spec.sandbox_id}")
        try:
            await start
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling():
                raise
            if self._closing:
                raise Unavailable("This node is stopping; try again") from None
            raise StateConflict(f"Sandbox {spec.sandbox_id} was terminated while it was starting") from None
        finally:
            del self._starts[spec.sandbox_id]

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        if start := self._starts.get(sandbox_id):
            start.cancel()
            await asyncio.wait([start])
        if machine := self._sandboxes.get(sandbox_id):
            machine.stopping = True  # so that nobody lets it run on whose capture ends here
            await self._captures.cancel(sandbox_id)
            await machine.detach_volume(timeout_s=_DETACH_TIMEOUT_S)
            await machine.stop()

    async def capture_machine(
        self, sandbox_id: SandboxId, *, key: bytes, into: StateRef, hold: bool, withhold_secrets: bool = False
    ) -> SavedState:
        """`pause_machine` and, without *hold*, `snapshot_machine`."""
        if self._closing:
            raise Unavailable("This node is stopping; try again")
        machine = self.find(sandbox_id)
        if machine is None or machine.held:
            raise StateConflict(f"Sandbox {sandbox_id} does not run here, and only one that runs can be saved")
        saved = await self._captures.take(sandbox_id, machine, key, into, hold=hold, withhold_secrets=withhold_secrets)
        if hold and machine.record.volume is not None:
            await self._facilities.volumes.note_pause(machine.record.volume, into.id)
        return saved

    async def continue_machine(self, sandbox_id: SandboxId) -> None:
        machine = self.find(sandbox_id)
        if machine is None or self._captures.under_way(sandbox_id):
            raise StateConflict(f"Sandbox {sandbox_id} has no machine that could go on, or it is being saved")
        async with machine.turning:
            if not machine.held:
                return
            try:
                await machine.go_on()
            except BaseException as error:
                machine.vm.process.kill()
                if isinstance(error, VmmFailed):
                    raise GuestFault("The machine did not go on", context={"cause": str(error)}) from error
                raise
        self._flattener.consider(machine)

    async def has_state(self, state_id: StateId) -> bool:
        manifest = state.manifest_name(state_id)
        return manifest in await self._facilities.artifacts.names(manifest)

    async def collect(self, keep: Collection[StateId]) -> None:
        await self._collector.collect(keep)

    def find(self, sandbox_id: SandboxId) -> Machine | None:
        """The machine of a sandbox, unless it is being stopped."""
        machine = self._sandboxes.get(sandbox_id)
        return None if machine is None or machine.stopping else machine

    def list_machines(self) -> Mapping[SandboxId, MachinePhase]:
        return {
            sandbox_id: MachinePhase.HELD if machine.held else MachinePhase.AWAKE
            for sandbox_id, machine in self._sandboxes.items()
        }

    def count_warm(self) -> int:
        return len(self._pool.waiting())

    async def exits(self) -> AsyncIterator[SandboxId]:
        while True:
            yield await self._exits.get()

    # ---- starts ----------------------------------------------------------------------------------

    async def _start(self, spec: MachineSpec) -> None:
        if spec.volume is None:
            await self._start_with(spec, None)
            return
        volumes = self._facilities.volumes
        await volumes.hold(spec.volume.id)  # given back when the machine has ended
        try:
            disk = await volumes.prepare(spec.volume)
            if spec.state is not None:
                await volumes.check_pause(spec.volume.id, spec.state.id)
            await self._start_with(spec, disk)
        except BaseException:
            volumes.release(spec.volume.id)
            raise

    async def _start_with(self, spec: MachineSpec, volume: Layer | None) -> None:
        if spec.state is None:
            nic = spec.network is not None
            if nic:
                await self._facilities.networks.check()
            if await self._claim(spec, volume):
                return
            template = await self._starter.template(spec.template, spec.size, nic=nic)
            await self._make_room(spec.size.memory_mib)
            machine = await self._starter.fresh(template, spec.size, owner_of(spec))
            wake = first_wake(spec.sandbox_id, spec.env)
        else:
            await self._make_room(spec.size.memory_mib)
            machine = await self._starter.saved(spec, spec.state, volume)
            wake = (
                first_wake(spec.sandbox_id, spec.env, forked=True) if spec.fork else replace(going_on(), env=spec.env)
            )
        self._machines[machine.id] = machine
        try:
            trust = await machine.admit(spec.sandbox_id, spec.network)
            await machine.wake(replace(wake, trust=trust), fresh=spec.state is None)
            if spec.state is None:
                await _mount(machine, spec, volume)
            self._hand_out(machine, spec.sandbox_id, warm=False)
        except BaseException:
            await asyncio.shield(machine.end())
            raise
        self._flattener.consider(machine)

    async def _claim(self, spec: MachineSpec, volume: Layer | None) -> bool:
        """Make a warm machine the sandbox's; False when there is none that can be."""
        warm = self._pool.claim(PoolKey(spec.template, spec.size.name, spec.network is not None))
        if warm is None:
            return False
        self._filler.look_again()
        try:
            await warm.claim(spec.sandbox_id, spec.key, None if spec.volume is None else spec.volume.id)
            trust = await warm.admit(spec.sandbox_id, spec.network)
            await warm.wake(replace(first_wake(spec.sandbox_id, spec.env), trust=trust))
            await _mount(warm, spec, volume)
            self._hand_out(warm, spec.sandbox_id, warm=True)
        except (GuestFault, StorageFull, Unavailable) as error:  # it broke while it waited: no concern of the caller's
            log.warning("warm machine not used", machine=warm.id, why=error.detail)
            await warm.end()
            return False
        except BaseException:
            await asyncio.shield(warm.end())
            raise
        return True

    def _hand_out(self, machine: Machine, sandbox_id: SandboxId, *, warm: bool) -> None:
        if machine.id not in self._machines:
            raise GuestFault("The machine ended while it started; try again")
        self._sandboxes[sandbox_id] = machine
        self.meter.begin(machine.id, sandbox_id, machine.vm.process, warm=warm)

    async def _make_room(self, memory_mib: int) -> None:
        """End warm machines until one more of this size fits; none if it would not fit even then."""
        while not self._admission.fits(memory_mib):
            waiting = {machine.id for machine in self._pool.waiting()}
            if not self._admission.fits(memory_mib, without=waiting) or not (evicted := self._pool.evict()):
                return
            await evicted.end()

    # ---- ends ------------------------------------------------------------------------------------

    def _ended(self, machine: Machine) -> None:
        """
        A monitor has ended and its remains are removed.

        If nobody asked for it, then its guest shut down, panicked or ran into its memory limit, or it was killed.
        """
        self._machines.pop(machine.id, None)
        self.meter.end(machine.id, machine.used)
        self._pool.discard(machine)
        self._starter.forget(machine.record)
        self._filler.look_again()
        sandbox_id = machine.record.sandbox_id
        owned = sandbox_id is not None and self._sandboxes.get(sandbox_id) is machine
        if sandbox_id is not None and owned:
            del self._sandboxes[sandbox_id]
            if machine.record.volume is not None:
                self._facilities.volumes.release(machine.record.volume)
        if not machine.stopping:
            log.warning("machine ended by itself", machine=machine.id, sandbox=sandbox_id)
            if sandbox_id is not None and owned:
                self._exits.put_nowait(sandbox_id)

    def _in_use(self) -> InUse:
        return InUse(
            states=self._captures.states | self._starter.sources,
            layers=self._captures.layers,
            records=[machine.record for machine in self._machines.values()],
        )

    # ---- the daemon before -----------------------------------------------------------------------

    async def _reap_unrecorded(self) -> None:
        """Kill monitors whose machine has no record, or a record that does not know them yet."""
        for machine_id, process in await asyncio.to_thread(self._facilities.vmm.running):
            record = MachineRecord.find(self._facilities.directory(machine_id))
            if record is None or record.process != process:
                log.warning("reaping a monitor without record", machine=machine_id, pid=process.pid)
                await self._reap(machine_id, process)
        recorded = {each.name for each in self._facilities.machines.iterdir()}
        for machine_id in set(self._facilities.cgroups.list()) - recorded:
            await self._remove(machine_id)

    async def _adopt_or_reap(self, machine_id: str) -> None:
        record = MachineRecord.find(self._facilities.directory(machine_id))
        if record is not None and record.sandbox_id is not None:
            try:
                machine = await Machine.adopt(record, self._facilities, self._ended)
            except (VmmFailed, TerpError, OSError) as error:
                log.warning("machine not adopted", machine=machine_id, sandbox=record.sandbox_id, why=str(error))
            else:
                if record.sandbox_id not in self._sandboxes:
                    self._admission.charge(machine_id, record.memory_mib)
                    self._uids.reserve(record.uid)
                    self._machines[machine_id] = machine
                    self._sandboxes[record.sandbox_id] = machine
                    self.meter.adopt(machine_id, record.sandbox_id, machine.vm.process)
                    if record.volume is not None:
                        self._facilities.volumes.adopt(record.volume)
                    self._flattener.consider(machine)
                    await self._find_network(machine)
                    return
                await machine.release()  # a start that went on to another machine died before this one was gone
        if record is not None and record.process is not None:
            await self._reap(machine_id, record.process)
        if not await self._remove(machine_id) and record is not None:
            self._uids.reserve(record.uid)  # something of it may still run

    @staticmethod
    async def _find_network(machine: Machine) -> None:
        """So that what an adopted machine tries is recorded. It reaches nothing in any case until it is told again."""
        if machine.record.tap is None:
            return
        try:
            await machine.nic()
        except (StateConflict, Unavailable) as error:
            why, context = error.detail, dict(error.context)
            log.warning("the network of a machine is not served", machine=machine.id, why=why, context=context)

    @staticmethod
    async def _reap(machine_id: str, process: Process) -> None:
        process.kill()
        try:
            await asyncio.wait_for(process.wait(), _REAP_TIMEOUT_S)
        except TimeoutError:
            log.error("a monitor does not end", machine=machine_id, pid=process.pid)  # noqa: TRY400  it says all

    async def _remove(self, machine_id: str) -> bool:
        """Remove what a machine left. One that resists must not keep the daemon from serving the others."""
        try:
            await asyncio.to_thread(self._facilities.remove, machine_id)
        except OSError as error:
            log.error("machine remains", machine=machine_id, why=str(error))  # noqa: TRY400  it says all
            return False
        return True


async def _mount(machine: Machine, spec: MachineSpec, disk: Layer | None) -> None:
    if spec.volume is not None and disk is not None:
        await machine.attach_volume(disk, spec.volume.size_mib)
