"""
Removing saved states that nobody needs, then the layers and templates that only those needed.

What goes first is what names others: a state's manifest before its parts, states before layers. So a crash in between
leaves what nobody names, and never a name of what is gone. A layer that appears while this runs is not looked at; one
that was there is needed if, at a moment after that, a machine or a state names it. Machines are asked before states,
since what a pause hands over, from one to the other, is then seen with one of them at least.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import structlog

from terpd.model.errors import SavedStateFault
from terpd.model.ids import StateId
from terpd.node.artifacts.base import ArtifactStore
from terpd.node.facilities import Facilities
from terpd.node.record import MachineRecord
from terpd.node.snapshot import state
from terpd.node.snapshot.pins import Pins, SnapshotName

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class InUse:
    """What this process is about: states being written or started from, and layers that captures have written."""

    states: Collection[StateId]
    layers: Collection[str]
    records: Sequence[MachineRecord]


class Collector:
    """
    Args:
        in_use: Asked again and again.
    """

    def __init__(self, facilities: Facilities, pins: Pins, in_use: Callable[[], InUse]) -> None:
        self._facilities = facilities
        self._artifacts: ArtifactStore = facilities.artifacts
        self._pins = pins
        self._in_use = in_use
        self._one = asyncio.Lock()

    async def collect(self, keep: Collection[StateId]) -> None:
        """As `Node.collect`."""
        async with self._one:
            self._pins.begin()
            layers = await self._artifacts.names("layers/")
            names = await self._artifacts.names("states/")
            for state_id, parts in groupby(sorted(names), key=_state_of):
                if state_id not in keep and state_id not in self._in_use().states:
                    await self._remove_state(state_id, list(parts))
            machines = self._in_use()
            recorded = await asyncio.to_thread(self._records)
            records = [*machines.records, *recorded]
            manifests = await self._manifests()
            if manifests is None:
                return
            needed = {layer.kept.name for record in records for layer in record.layers if layer.kept is not None}
            needed |= {layer.name for manifest in manifests for layer in manifest.layers}
            needed.update(machines.layers, self._in_use().layers)
            for name in set(layers) - needed:
                log.info("removing a layer that nobody needs", name=name)
                await self._artifacts.discard(name)
            templates = {SnapshotName(record.template, record.origin) for record in records if record.origin}
            templates |= {SnapshotName(each.origin.template, each.origin.directory) for each in manifests}
            await self._pins.release(templates)

    async def _remove_state(self, state_id: StateId, parts: Sequence[str]) -> None:
        log.info("removing a saved state that nobody needs", state=state_id)
        manifest = state.manifest_name(state_id)
        for name in sorted(parts, key=lambda name: name != manifest):
            await self._artifacts.discard(name)

    async def _manifests(self) -> Sequence[state.StateManifest] | None:
        """Of all states; None if one cannot be read, for then nobody knows what it needs."""
        names = await self._artifacts.names("states/")
        found = []
        for name in names:
            state_id = _state_of(name)
            if name != state.manifest_name(state_id):
                continue
            try:
                found.append(await state.read_public(self._artifacts, state_id))
            except SavedStateFault as error:
                log.error("no layers are removed, for a saved state cannot be read", state=state_id, why=error.detail)  # noqa: TRY400  it says all
                return None
        return found

    def _records(self) -> Sequence[MachineRecord]:
        directories: Sequence[Path] = list(self._facilities.machines.iterdir())
        found = [MachineRecord.find(directory) for directory in directories]
        return [record for record in found if record is not None]


def _state_of(name: str) -> StateId:
    return StateId(name.split("/")[1])
