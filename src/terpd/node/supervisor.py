"""
Which machines exist on this host: starts and stops them, keeps the pools filled, adopts and reaps after a restart.

After a restart every directory under `machines/`, every process with our marker and every cgroup of ours is looked at
once: a machine with a readable record, a sandbox and an answering guest is adopted; anything else is removed. Warm
machines that nobody had claimed are removed too and started afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from terpd.model.errors import AlreadyExists, GuestFault, StateConflict, TemplateNotFound, TerpError, Unavailable
from terpd.model.guest import ExecRequest
from terpd.model.ids import SandboxId, new_exec_id, new_machine_id
from terpd.model.ports import MachineSpec
from terpd.model.sandbox import Size
from terpd.node.admission import Admission
from terpd.node.jail.process import Process
from terpd.node.jail.uids import UidRange
from terpd.node.machine import Facilities, Machine
from terpd.node.pool import Pool, PoolKey
from terpd.node.record import MachineRecord
from terpd.node.snapshot.template import PreparationFailed, TemplateSnapshot, TemplateSnapshots
from terpd.node.template.catalog import Catalog
from terpd.node.template.progress import Quiet
from terpd.node.vmm.base import VmmFailed

log = structlog.get_logger()

_EXERCISE_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.2  # whether sandboxes are still being created, before a pool is filled
_REFILL_RETRY_S = 5.0  # before a kind of machine is tried again that could not be started
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
        self._catalog = catalog
        self._snapshots = snapshots
        self._admission = admission
        self._uids = uids
        self._pool = pool
        self._sizes = sizes
        self._starting = asyncio.Semaphore(starts_at_once)
        self._machines: dict[str, Machine] = {}
        self._sandboxes: dict[SandboxId, Machine] = {}
        self._starts: dict[SandboxId, asyncio.Task[None]] = {}
        self._exits: asyncio.Queue[SandboxId] = asyncio.Queue()
        self._refill = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None
        self._closing = False

    # ---- life of the daemon ----------------------------------------------------------------------

    async def open(self) -> None:
        """Adopt what runs, reap what has no owner, then start filling the pools."""
        self._facilities.machines.mkdir(parents=True, exist_ok=True, mode=0o711)
        await self._reap_unrecorded()
        directories = [each for each in self._facilities.machines.iterdir() if each.is_dir()]
        await asyncio.gather(*(self._adopt_or_reap(each.name) for each in directories))
        self._filling = asyncio.create_task(self._fill_pools(), name="pools")

    async def close(self, *, stop_machines: bool) -> None:
        """
        Stop the warm machines, and all others too if asked; what runs on is adopted by the next daemon.

        Starts under way are undone; their callers get Unavailable, and so does who asks for another.
        """
        self._closing = True
        under_way = [*self._starts.values(), *([self._filling] if self._filling else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        machines = list(self._machines.values())
        ending = [machine for machine in machines if stop_machines or machine.record.sandbox_id is None]
        staying = [machine for machine in machines if machine not in ending]
        stopped = await asyncio.gather(*(machine.stop() for machine in ending), return_exceptions=True)
        for machine, result in zip(ending, stopped, strict=True):
            if isinstance(result, BaseException):
                log.error("machine not stopped", machine=machine.id, why=str(result))
        await asyncio.gather(*(machine.release() for machine in staying))
        await asyncio.to_thread(self._facilities.cgroups.close)

    # ---- machines of sandboxes -------------------------------------------------------------------

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
            await machine.stop()

    def find(self, sandbox_id: SandboxId) -> Machine | None:
        """The machine of a sandbox, unless it is being stopped."""
        machine = self._sandboxes.get(sandbox_id)
        return None if machine is None or machine.stopping else machine

    def list_machines(self) -> Sequence[SandboxId]:
        return list(self._sandboxes)

    def count_warm(self) -> int:
        return len(self._pool.waiting())

    async def exits(self) -> AsyncIterator[SandboxId]:
        while True:
            yield await self._exits.get()

    # ---- inside ----------------------------------------------------------------------------------

    async def _start(self, spec: MachineSpec) -> None:
        warm = self._pool.claim(PoolKey(spec.template, spec.size.name))
        if warm is not None:
            self._refill.set()
            try:
                warm.claim(spec.sandbox_id)
                await self._wake(warm, spec)
            except (GuestFault, Unavailable) as error:  # it broke while it waited, which is not the caller's concern
                log.warning("warm machine not used", machine=warm.id, why=error.detail)
                await self._end(warm)
            except BaseException:
                await asyncio.shield(self._end(warm))
                raise
            else:
                return
        snapshot = await self._snapshot(spec.template, spec.size)
        machine = await self._launch(snapshot, spec.template, spec.size, spec.sandbox_id)
        try:
            await self._wake(machine, spec)
        except BaseException:
            await asyncio.shield(self._end(machine))
            raise

    async def _wake(self, machine: Machine, spec: MachineSpec) -> None:
        """Make a machine that of its sandbox. Raises GuestFault."""
        await machine.wake(hostname=_hostname(spec.sandbox_id), env=spec.env)
        if machine.id not in self._machines:
            raise GuestFault("The machine ended while it started; try again")
        self._sandboxes[spec.sandbox_id] = machine

    async def _snapshot(self, template: str, size: Size) -> TemplateSnapshot:
        image = await asyncio.to_thread(self._catalog.find, template)
        if image is None:
            raise TemplateNotFound(
                f"Template {template} is not built on this node; build it with: terpd template build {template}"
            )
        try:
            return await self._snapshots.ensure(image, size, Quiet())
        except PreparationFailed as error:
            raise Unavailable(
                f"Template {template} could not be prepared in size {size.name}; the operator finds why in the log",
                context={"cause": str(error)},
            ) from error

    async def _launch(
        self, snapshot: TemplateSnapshot, template: str, size: Size, sandbox_id: SandboxId | None
    ) -> Machine:
        machine_id = new_machine_id()
        if sandbox_id is not None:
            await self._make_room(size.memory_mib)
        self._admission.admit(machine_id, size.memory_mib)
        try:
            uid = self._uids.take()
        except BaseException:
            self._admission.release(machine_id)
            raise
        record = MachineRecord(machine_id, sandbox_id, template, size.name, size.memory_mib, uid)
        try:
            async with self._starting:
                machine = await Machine.start(record, snapshot, self._facilities, on_exit=self._ended)
        except BaseException:
            self._forget(record)
            raise
        self._machines[machine_id] = machine
        return machine

    async def _make_room(self, memory_mib: int) -> None:
        """End warm machines until one more of this size fits; none if it would not fit even then."""
        while not self._admission.fits(memory_mib):
            waiting = {machine.id for machine in self._pool.waiting()}
            if not self._admission.fits(memory_mib, without=waiting) or not (evicted := self._pool.evict()):
                return
            await self._end(evicted)

    async def _end(self, machine: Machine) -> None:
        """Stop a machine that nobody will ask for again. One that hangs in the kernel stays charged until it ends."""
        try:
            await machine.stop()
        except Unavailable as error:
            log.error("machine not stopped", machine=machine.id, why=error.detail)  # noqa: TRY400  it says all

    def _forget(self, record: MachineRecord) -> None:
        self._admission.release(record.machine_id)
        self._uids.give_back(record.uid)

    def _ended(self, machine: Machine) -> None:
        """
        A monitor has ended and its remains are removed.

        If nobody asked for it, then its guest shut down, panicked or ran into its memory limit, or it was killed.
        """
        del self._machines[machine.id]
        self._pool.discard(machine)
        self._forget(machine.record)
        self._refill.set()
        sandbox_id = machine.record.sandbox_id
        owned = sandbox_id is not None and self._sandboxes.get(sandbox_id) is machine
        if sandbox_id is not None and owned:
            del self._sandboxes[sandbox_id]
        if not machine.stopping:
            log.warning("machine ended by itself", machine=machine.id, sandbox=sandbox_id)
            if sandbox_id is not None and owned:
                self._exits.put_nowait(sandbox_id)

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
                    return
                await machine.release()  # a start that went on to another machine died before this one was gone
        if record is not None and record.process is not None:
            await self._reap(machine_id, record.process)
        if not await self._remove(machine_id) and record is not None:
            self._uids.reserve(record.uid)  # something of it may still run

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

    async def _fill_pools(self) -> None:
        """Start what the pools lack, one machine at a time and only while no sandbox is being created."""
        loop = asyncio.get_running_loop()
        failed: dict[PoolKey, float] = {}  # kind → when to try it again: one that fails must not keep out the others
        while True:
            failed = {key: again for key, again in failed.items() if again > loop.time()}
            large = [key for key in self._pool.targets if not self._admission.fits(self._sizes[key.size].memory_mib)]
            key = self._pool.wanted(but=[*failed, *large])
            if key is None or self._starts:
                again = min(failed.values()) - loop.time() if failed else None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._refill.wait(), timeout=_LOOK_AGAIN_S if self._starts else again)
                self._refill.clear()
                continue
            try:
                self._pool.add(key, await self._warm_up(key))
            except Exception as error:  # noqa: BLE001  whatever it was, the pools are to be full again one day
                log.warning("pool not filled", template=key.template, size=key.size, why=str(error) or repr(error))
                failed[key] = loop.time() + _REFILL_RETRY_S

    async def _warm_up(self, key: PoolKey) -> Machine:
        size = self._sizes[key.size]
        snapshot = await self._snapshot(key.template, size)
        machine = await self._launch(snapshot, key.template, size, None)
        try:
            await machine.wake(hostname="warm", env={})
            for command in snapshot.image.warm:
                request = ExecRequest(exec_id=new_exec_id(), command=command, timeout_s=_EXERCISE_TIMEOUT_S)
                async for _ in machine.guest.exec(request):
                    pass
            # Once more: a claim wakes a guest that ran already, and so does this, which warms its path (6 ms, then 3).
            await machine.wake(hostname="warm", env={})
            if machine.id not in self._machines:
                raise GuestFault("The machine ended while it warmed up")
        except BaseException:
            await asyncio.shield(self._end(machine))
            raise
        return machine


def _hostname(sandbox_id: SandboxId) -> str:
    """At most 63 characters of [a-z0-9-] (RFC 1123): the ULID in lower case."""
    return sandbox_id.removeprefix("sbx_").lower()
