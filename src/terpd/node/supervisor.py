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

from terpd.model.errors import AlreadyExists, CapacityUnavailable, GuestFault, TemplateNotFound, TerpError, Unavailable
from terpd.model.guest import ExecRequest
from terpd.model.ids import SandboxId, new_exec_id, new_machine_id
from terpd.model.ports import MachineSpec
from terpd.model.sandbox import Size
from terpd.node.admission import Admission
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
_REFILL_RETRY_S = 5.0


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
        self._creates = 0
        self._machines: dict[str, Machine] = {}
        self._sandboxes: dict[SandboxId, Machine] = {}
        self._claiming: set[SandboxId] = set()
        self._exits: asyncio.Queue[SandboxId] = asyncio.Queue()
        self._refill = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # ---- life of the daemon ----------------------------------------------------------------------

    async def open(self) -> None:
        """Adopt what runs, reap what has no owner, then start filling the pools."""
        self._facilities.machines.mkdir(parents=True, exist_ok=True, mode=0o711)
        await self._reap_unrecorded()
        directories = [each for each in self._facilities.machines.iterdir() if each.is_dir()]
        await asyncio.gather(*(self._adopt_or_reap(each.name) for each in directories))
        self._tasks.append(asyncio.create_task(self._fill_pools(), name="pools"))

    async def close(self, *, stop_machines: bool) -> None:
        """Stop the warm machines, and all others too if asked; what runs on is adopted by the next daemon."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        unclaimed = [machine for machine in self._machines.values() if machine.record.sandbox_id is None]
        ending = list(self._machines.values()) if stop_machines else unclaimed
        staying = [machine for machine in self._machines.values() if machine not in ending]
        await asyncio.gather(*(self._stop(machine) for machine in ending))
        await asyncio.gather(*(machine.release() for machine in staying))
        await asyncio.to_thread(self._facilities.cgroups.close)

    # ---- machines of sandboxes -------------------------------------------------------------------

    async def start_machine(self, spec: MachineSpec) -> None:
        if spec.sandbox_id in self._sandboxes or spec.sandbox_id in self._claiming:
            raise AlreadyExists(f"Sandbox {spec.sandbox_id} has a machine already")
        self._claiming.add(spec.sandbox_id)
        self._creates += 1
        try:
            machine = self._pool.claim(PoolKey(spec.template, spec.size.name))
            if machine is not None:
                machine.claim(spec.sandbox_id)
                self._refill.set()
            else:
                snapshot = await self._snapshot(spec.template, spec.size)
                machine = await self._launch(snapshot, spec.template, spec.size, spec.sandbox_id)
            try:
                await machine.wake(hostname=_hostname(spec.sandbox_id), env=spec.env)
                if machine.id not in self._machines:
                    raise GuestFault("The machine ended while it started")
            except BaseException:
                await asyncio.shield(self._stop(machine))
                raise
            self._sandboxes[spec.sandbox_id] = machine
        finally:
            self._creates -= 1
            self._claiming.discard(spec.sandbox_id)

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        machine = self._sandboxes.pop(sandbox_id, None)
        if machine is not None:
            await self._stop(machine)
            self._refill.set()

    def find(self, sandbox_id: SandboxId) -> Machine | None:
        return self._sandboxes.get(sandbox_id)

    def list_machines(self) -> Sequence[SandboxId]:
        return list(self._sandboxes)

    def count_warm(self) -> int:
        return len(self._pool.waiting())

    async def exits(self) -> AsyncIterator[SandboxId]:
        while True:
            yield await self._exits.get()

    # ---- inside ----------------------------------------------------------------------------------

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
        await self._admit(machine_id, size.memory_mib, evict=sandbox_id is not None)
        uid = self._uids.take()
        record = MachineRecord(machine_id, sandbox_id, template, size.name, size.memory_mib, uid)
        try:
            async with self._starting:
                machine = await Machine.start(record, snapshot, self._facilities, on_exit=self._exited)
        except BaseException:
            self._forget(record)
            raise
        self._machines[machine_id] = machine
        return machine

    async def _admit(self, machine_id: str, memory_mib: int, *, evict: bool) -> None:
        while evict and not self._admission.fits(memory_mib) and (waiting := self._pool.evict()):
            await self._stop(waiting)
        self._admission.admit(machine_id, memory_mib)

    async def _stop(self, machine: Machine) -> None:
        await machine.stop()
        if self._machines.pop(machine.id, None):  # else it ended by itself meanwhile and is forgotten already
            self._forget(machine.record)

    def _forget(self, record: MachineRecord) -> None:
        self._admission.release(record.machine_id)
        self._uids.give_back(record.uid)

    def _exited(self, machine: Machine) -> None:
        """A monitor ended by itself: its guest shut down, panicked or ran into its memory limit, or it was killed."""
        self._machines.pop(machine.id, None)
        self._pool.discard(machine)
        self._forget(machine.record)
        self._refill.set()
        sandbox_id = machine.record.sandbox_id
        log.warning("machine ended by itself", machine=machine.id, sandbox=sandbox_id)
        if sandbox_id is not None and self._sandboxes.pop(sandbox_id, None) is not None:
            self._exits.put_nowait(sandbox_id)

    async def _reap_unrecorded(self) -> None:
        """Kill monitors whose machine has no record, or a record that does not know them yet."""
        for machine_id, process in await asyncio.to_thread(self._facilities.vmm.running):
            record = MachineRecord.find(self._facilities.directory(machine_id))
            if record is None or record.process != process:
                log.warning("reaping a monitor without record", machine=machine_id, pid=process.pid)
                process.kill()
                await process.wait()
        recorded = {each.name for each in self._facilities.machines.iterdir()}
        for machine_id in set(self._facilities.cgroups.list()) - recorded:
            await asyncio.to_thread(self._facilities.remove, machine_id)

    async def _adopt_or_reap(self, machine_id: str) -> None:
        record = MachineRecord.find(self._facilities.directory(machine_id))
        if record is not None and record.sandbox_id is not None:
            try:
                machine = await Machine.adopt(record, self._facilities, self._exited)
            except (VmmFailed, TerpError) as error:
                log.warning("machine not adopted", machine=machine_id, sandbox=record.sandbox_id, why=str(error))
            else:
                self._admission.charge(machine_id, record.memory_mib)
                self._uids.reserve(record.uid)
                self._machines[machine_id] = machine
                self._sandboxes[record.sandbox_id] = machine
                return
        if record is not None and record.process is not None:
            record.process.kill()
            await record.process.wait()
        await asyncio.to_thread(self._facilities.remove, machine_id)

    async def _fill_pools(self) -> None:
        """Start what the pools lack, one machine at a time and only while no sandbox is being created."""
        while True:
            key = self._pool.wanted()
            if key is None or self._creates:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._refill.wait(), timeout=None if key is None else 0.2)
                self._refill.clear()
                continue
            try:
                self._pool.add(key, await self._warm_up(key))
            except (TerpError, CapacityUnavailable) as error:
                log.warning("pool not filled", template=key.template, size=key.size, why=str(error))
                await asyncio.sleep(_REFILL_RETRY_S)

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
            await asyncio.shield(self._stop(machine))
            raise
        return machine


def _hostname(sandbox_id: SandboxId) -> str:
    """At most 63 characters of [a-z0-9-] (RFC 1123): the ULID in lower case."""
    return sandbox_id.removeprefix("sbx_").lower()
