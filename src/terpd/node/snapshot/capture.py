"""
One capture of a running machine, for a pause or for a snapshot.

    check room ─► close the gate ─► note it ─► prepare ─► freeze the guest ─► part from it ─► stop
      ─► devices ─► copy memory ─┬─ snapshot: push a layer, run, wake ─► open the gate ─► write the parts ─► manifest
                                 └─ pause: write the parts ─► manifest ─► held

Until the machine runs again, its record says that it is being captured: a daemon that finds it so neither reaps it nor
lets it run unasked. Whatever fails is undone to a machine that runs. A layer that was pushed stays: nothing is lost by
one more. What it froze is kept under a name chosen for this capture, so that a pause that is undone, whose top layer is
written to again, leaves no name behind that means two things.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from blake3 import blake3

from terpd.model.errors import GuestFault, Internal, StateConflict, StorageFull, TerpError, Unavailable
from terpd.model.ids import new_layer_id
from terpd.model.ports import StateRef
from terpd.model.snapshot import SavedState
from terpd.node.artifacts.base import ArtifactInfo
from terpd.node.facilities import Facilities
from terpd.node.finished import finished
from terpd.node.machine import Machine, new_secret
from terpd.node.record import DiskLayer
from terpd.node.snapshot import state
from terpd.node.snapshot.sealer import SEALING_FAULTS, SavingMemory
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm.base import Layer, VmmFailed
from terpd.sealing.box import SealBroken, seal

log = structlog.get_logger()

_CALLS_TIMEOUT_S = 10.0  # for file operations under way: those that take longer break off
_FREEZE_TIMEOUT_S = 25.0  # the guest writes out its disk
_RESERVE_BYTES = 32 << 20  # for layers' metadata, devices and manifests, besides memory
_BUFFER_BYTES = 512 << 20  # of changed memory held back while a snapshot's source runs on already
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a stopped machine; its memory is still to be written."""

    devices: bytes
    memory: SavingMemory
    layers: Sequence[DiskLayer]


class Capture:
    """
    Args:
        template: The snapshot that the machine was started from.
        key: Its sandbox's data key.
        withhold_secrets: The variables that were set while the guest ran are not in the state. They are here
            meanwhile, and the guest is given them back by whatever lets it run on.
    """

    def __init__(
        self,
        machine: Machine,
        facilities: Facilities,
        template: TemplateSnapshot,
        key: bytes,
        into: StateRef,
        *,
        withhold_secrets: bool,
    ) -> None:
        self._machine = machine
        self._facilities = facilities
        self._artifacts = facilities.artifacts
        self._template = template
        self._key = key
        self._into = into
        self._withhold_secrets = withhold_secrets
        self._withheld: Mapping[str, str] = {}
        self._secrets: dict[str, bytes] = {}
        self._closed = False  # the gate is, or is being
        self._frozen = False  # the guest may be, and the machine stopped
        self._top: Layer | None = None  # the new one of a snapshot
        self._pushed = False  # the monitor may write to it
        self._promised = False  # the manifest may be there
        self._stopped_at = 0.0
        self._stopped_s = 0.0
        self.kept: set[str] = set()  # names of layers that this capture has written, or is about to

    async def take(self, *, hold: bool) -> SavedState:
        """
        Save the machine. With *hold* it stays stopped, else it runs on as soon as possible.

        Raises:
            StateConflict, StorageFull, Unavailable, GuestFault, DeadlineExceeded: As `Node.pause_machine`.
        """
        try:
            self._secrets = self._machine.record.secrets(self._key)
        except SealBroken as error:
            raise Internal("The key of the sandbox's disk does not open", context={"cause": str(error)}) from error
        dirty = await asyncio.to_thread(_private_bytes, self._machine)
        if self._artifacts.free_bytes() < dirty + _RESERVE_BYTES:
            raise StorageFull(
                "The server's disk has no room to save the sandbox; delete snapshots or terminate paused sandboxes",
                context={"wanted_bytes": dirty + _RESERVE_BYTES},
            )
        try:
            with self._artifacts.draft(state.memory_name(self._into.id)) as target:
                return await self._take(target, dirty, hold=hold)
        except BaseException as error:
            await finished(self._undo())
            if isinstance(error, Exception):
                raise self._explained(error) from error
            raise

    async def _take(self, target: Path, dirty: int, *, hold: bool) -> SavedState:
        machine = self._machine
        self._closed = True
        if not await machine.gate.close(timeout_s=_CALLS_TIMEOUT_S):
            log.warning("capturing in spite of calls under way", machine=machine.id)
        await machine.update(replace(machine.record, capturing=self._into.id))
        saving = self._facilities.sealer.save_memory(
            machine.vm.process,
            self._template.memory,
            target,
            key=self._into.key,
            context=state.memory_name(self._into.id),
            buffer_bytes=0 if hold else min(dirty, _BUFFER_BYTES),
        )
        async with saving as memory:
            read = await self._read(memory, hold=hold)
            saved = await self._write(read, target)
        if hold:
            machine.hold()
        return saved

    async def _read(self, memory: SavingMemory, *, hold: bool) -> _Read:
        machine = self._machine
        layers = machine.record.layers
        if not hold:
            self._top = await self._new_top()
        self._frozen = True
        # To its end then, even if cancelled: what the guest's agent forgets is in its answer only.
        await (finished(self._freeze()) if self._withhold_secrets else self._freeze())
        await machine.link.part()
        self._stopped_at = time.monotonic()
        await machine.vm.stop()
        devices = await machine.vm.devices()
        await memory.copy()
        self._stopped_s = time.monotonic() - self._stopped_at
        if self._top is not None:
            await self._run_on(self._top)
        return _Read(devices, memory, layers)

    async def _freeze(self) -> None:
        # Dropping the page cache saves nothing, for freed pages keep their content, and takes 0.5-2 s under emulation.
        self._withheld = await self._machine.link.guest.freeze(
            drop_page_cache=False, withhold_secrets=self._withhold_secrets, timeout_s=_FREEZE_TIMEOUT_S
        )

    async def _new_top(self) -> Layer:
        """
        Make an empty layer and record it before the monitor knows of it. Should that never happen, it counts all the
        same: an empty layer on top changes nothing.
        """
        machine = self._machine
        layer_id, secret = new_layer_id(), new_secret()
        layer = Layer(self._facilities.layer(machine.id, layer_id), secret)
        await self._facilities.sealer.create_layer(
            self._template.empty_overlay, layer.path, secret=secret, uid=machine.record.uid
        )
        record = replace(machine.record, layers=(*machine.record.layers, DiskLayer(layer_id)))
        await machine.update(record.with_secrets({**self._secrets, layer_id: secret}, self._key))
        return layer

    async def _run_on(self, top: Layer) -> None:
        machine = self._machine
        self._pushed = True
        await machine.vm.push_layer(top)
        await machine.vm.run()
        self._stopped_s = time.monotonic() - self._stopped_at
        await machine.go_on(self._withheld)
        self._closed = self._frozen = False
        self._withheld = {}

    async def _write(self, read: _Read, target: Path) -> SavedState:
        name = self._into.id
        image = await read.memory.finish()
        memory = ArtifactInfo(state.memory_name(name), image.size, image.digest)
        await self._artifacts.keep(memory, target)
        sealed = seal(self._into.key, read.devices, context=state.devices_name(name))
        devices = ArtifactInfo(state.devices_name(name), len(sealed), blake3(sealed).hexdigest())
        await self._artifacts.put(devices.name, sealed)
        layers = [await self._freeze_layer(layer) for layer in read.layers]
        if self._pushed:  # it runs on, on top of these
            frozen = {layer.id: info for layer, info in zip(read.layers, layers, strict=True)}
            current = self._machine.record
            await self._machine.update(
                replace(current, layers=tuple(replace(each, kept=frozen.get(each.id)) for each in current.layers))
            )
        manifest = state.StateManifest(
            id=name,
            origin=state.origin_of(self._template),
            hardware=self._template.hardware,
            layers=layers,
            memory=memory,
            devices=devices,
            created_at=dt.datetime.now(dt.UTC),
            secrets=[self._secrets[layer.id] for layer in read.layers],
        )
        self._promised = True
        await self._artifacts.put(state.manifest_name(name), manifest.encode(self._into.key))
        return SavedState(name, image.dirty_bytes, manifest.stored_bytes, self._stopped_s)

    async def _freeze_layer(self, layer: DiskLayer) -> ArtifactInfo:
        """Keep a layer that nobody writes to now, unless it was kept frozen before."""
        if layer.kept is not None:
            return layer.kept
        path = self._facilities.layer(self._machine.id, layer.id)
        size, digest = await finished(asyncio.to_thread(_measure, path))
        info = ArtifactInfo(state.layer_name(new_layer_id()), size, digest)
        self.kept.add(info.name)
        await self._artifacts.keep(info, path)
        return info

    async def _undo(self) -> None:
        """Leave nothing of the state, and a machine that runs; or, where that cannot be, none."""
        machine = self._machine
        if self._promised:  # before the layers that it names are written to again
            await self._discard(state.manifest_name(self._into.id))
        if self._closed and not machine.stopping:
            try:
                if self._top is not None and not self._pushed:
                    await self._forget(self._top)
                await (machine.go_on(self._withheld) if self._frozen else machine.let_calls_in())
            except (TerpError, VmmFailed, OSError) as error:
                why = str(error)
                log.error("a machine could not go on after its capture failed", machine=machine.id, why=why)  # noqa: TRY400  it says all
                machine.vm.process.kill()
        for name in (state.devices_name(self._into.id), state.memory_name(self._into.id)):
            await self._discard(name)

    async def _forget(self, top: Layer) -> None:
        record = self._machine.record
        await self._machine.update(replace(record, layers=record.layers[:-1]))
        top.path.unlink(missing_ok=True)

    async def _discard(self, name: str) -> None:
        with contextlib.suppress(TerpError):  # `collect` finds it
            await self._artifacts.discard(name)

    def _explained(self, error: Exception) -> Exception:
        machine = self._machine
        if machine.stopping:
            return StateConflict("The sandbox was terminated while it was being saved")
        if not machine.vm.process.alive():
            return GuestFault("The machine ended while it was being saved", context={"cause": str(error)})
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return StorageFull("The server's disk has no room for the saved sandbox; it runs on, nothing was saved")
        if isinstance(error, (VmmFailed, OSError, *SEALING_FAULTS)):
            return Unavailable("The sandbox could not be saved and runs on; try again", context={"cause": str(error)})
        return error


def _private_bytes(machine: Machine) -> int:
    """
    What the monitor's guest memory may have beyond the template's, at most: the process's private memory, swapped out
    or not (proc(5), /proc/PID/status), and never more than the guest has.
    """
    wanted = ("RssAnon:", "VmSwap:")
    try:
        lines = Path(f"/proc/{machine.vm.process.pid}/status").read_text().splitlines()
    except OSError:  # it has ended, and the next step will find that
        return 0
    kib = sum(int(line.split()[1]) for line in lines if line.startswith(wanted))
    return min(kib << 10, machine.record.memory_mib << 20)


def _measure(path: Path) -> tuple[int, str]:
    """Size and digest of a file. Read, not mapped: a fault of the disk is an error then and no SIGBUS."""
    hasher = blake3()
    size = 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
    return size, hasher.hexdigest()
