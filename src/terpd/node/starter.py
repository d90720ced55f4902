"""Starting machines, from a template or a saved state: admitted first, a few at a time, nothing left on failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from terpd.model.errors import StateMismatch, TemplateNotFound, Unavailable
from terpd.model.ids import SandboxId, StateId, VolumeId, new_machine_id
from terpd.model.ports import MachineSpec, StateRef
from terpd.model.sandbox import Size
from terpd.node.admission import Admission
from terpd.node.facilities import Facilities
from terpd.node.jail.process import Process
from terpd.node.jail.uids import UidRange
from terpd.node.machine import Machine, Start
from terpd.node.record import DiskLayer, MachineRecord
from terpd.node.snapshot.pins import Pins
from terpd.node.snapshot.restore import OpenState, open_state
from terpd.node.snapshot.template import TemplateSnapshot, TemplateSnapshots
from terpd.node.snapshot.warm_up import PreparationFailed
from terpd.node.template.catalog import Catalog
from terpd.node.template.progress import Quiet
from terpd.node.vmm.base import Layer


@dataclass(frozen=True, slots=True)
class Owner:
    """The sandbox that a machine is started for, its data key, and the volume that it will have."""

    sandbox_id: SandboxId
    key: bytes = field(repr=False)
    volume: VolumeId | None = None


def owner_of(spec: MachineSpec) -> Owner:
    return Owner(spec.sandbox_id, spec.key, None if spec.volume is None else spec.volume.id)


class Starter:
    """
    Args:
        at_once: How many machines may be restoring at the same time; more only make each other slower.
        on_exit: Of every machine.
    """

    def __init__(
        self,
        facilities: Facilities,
        catalog: Catalog,
        snapshots: TemplateSnapshots,
        admission: Admission,
        uids: UidRange,
        pins: Pins,
        *,
        at_once: int,
        on_exit: Callable[[Machine], None],
    ) -> None:
        self._facilities = facilities
        self._catalog = catalog
        self._snapshots = snapshots
        self._admission = admission
        self._uids = uids
        self._pins = pins
        self._at_once = asyncio.Semaphore(at_once)
        self._on_exit = on_exit
        self._sources: Counter[StateId] = Counter()

    @property
    def sources(self) -> set[StateId]:
        """Saved states that machines are being started from."""
        return set(self._sources)

    async def template(self, template: str, size: Size, *, nic: bool) -> TemplateSnapshot:
        """
        Raises:
            TemplateNotFound: It is not built here.
            Unavailable: It cannot be prepared.
        """
        image = await asyncio.to_thread(self._catalog.find, template)
        if image is None:
            raise TemplateNotFound(
                f"Template {template} is not built on this node; build it with: terpd template build {template}"
            )
        try:
            return await self._snapshots.ensure(image, size, Quiet(), nic=nic)
        except PreparationFailed as error:
            raise Unavailable(
                f"Template {template} could not be prepared in size {size.name}; the operator finds why in the log",
                context={"cause": str(error)},
            ) from error

    async def fresh(self, template: TemplateSnapshot, size: Size, owner: Owner | None) -> Machine:
        """Start a machine that never ran; without *owner* a warm one."""
        start = Start(template, template.devices)
        return await self._launch(start, size, owner, disk=(), secrets={})

    async def saved(self, spec: MachineSpec, ref: StateRef, volume: Layer | None) -> Machine:
        """Start one that goes on from a saved state, with the disk of the volume that it had."""
        with self._in_use(ref.id):
            opened = await open_state(self._facilities.artifacts, self._snapshots, ref)
            if opened.template.hardware.memory_mib != spec.size.memory_mib:
                raise StateMismatch(
                    f"The saved state {ref.id} is of a sandbox with {opened.template.hardware.memory_mib} MiB of memory"
                    f" and not {spec.size.memory_mib}"
                )
            if spec.network is not None and not opened.template.hardware.nic:
                raise StateMismatch(f"The saved state {ref.id} is of a sandbox without network device")
            return await self._launch(
                Start(opened.template, opened.devices, opened.layers, self._inject(opened), volume),
                spec.size,
                owner_of(spec),
                disk=opened.disk,
                secrets=opened.secrets,
            )

    def forget(self, record: MachineRecord) -> None:
        """Give back what a machine that is gone was admitted with."""
        self._admission.release(record.machine_id)
        self._uids.give_back(record.uid)

    async def _launch(
        self,
        start: Start,
        size: Size,
        owner: Owner | None,
        *,
        disk: Sequence[DiskLayer],
        secrets: Mapping[str, bytes],
    ) -> Machine:
        machine_id = new_machine_id()
        self._admission.admit(machine_id, size.memory_mib)
        try:
            uid = self._uids.take()
        except BaseException:
            self._admission.release(machine_id)
            raise
        record = MachineRecord(
            machine_id,
            None if owner is None else owner.sandbox_id,
            start.template.image.template,
            size.name,
            size.memory_mib,
            uid,
            layers=disk,
            volume=None if owner is None else owner.volume,
        )
        try:
            async with self._pins.holding(start.template), self._at_once:
                return await Machine.start(
                    record,
                    start,
                    self._facilities,
                    secrets,
                    key=None if owner is None else owner.key,
                    on_exit=self._on_exit,
                )
        except BaseException:
            self.forget(record)
            raise

    def _inject(self, opened: OpenState) -> Callable[[Process], Awaitable[None]]:
        """What brings a state's memory into a monitor."""
        sealer = self._facilities.sealer

        async def inject(process: Process) -> None:
            loading = sealer.load_memory(opened.memory, opened.template.memory, key=opened.key, context=opened.context)
            async with loading as load:
                await load.inject(process)

        return inject

    @contextlib.contextmanager
    def _in_use(self, state_id: StateId) -> Iterator[None]:
        self._sources[state_id] += 1
        try:
            yield
        finally:
            self._sources[state_id] -= 1
            self._sources += Counter()  # without those that are 0
