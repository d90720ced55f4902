"""Opening a saved state: its manifest checked, its template at hand, its parts here and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from terpd.model.errors import StateDamaged
from terpd.model.ports import StateRef
from terpd.node.artifacts.base import ArtifactStore
from terpd.node.record import DiskLayer
from terpd.node.snapshot import state
from terpd.node.snapshot.template import TemplateSnapshot, TemplateSnapshots
from terpd.node.vmm.base import Layer
from terpd.sealing.box import SealBroken, unseal


@dataclass(frozen=True, slots=True)
class OpenState:
    """
    All that a machine needs to go on from a saved state.

    Attributes:
        disk: The frozen layers, lowest first, for the machine's record; `layers` are the same for its monitor.
        memory: The changed pages, encrypted with `key` for `context`.
    """

    template: TemplateSnapshot
    disk: Sequence[DiskLayer]
    layers: Sequence[Layer]
    devices: bytes = field(repr=False)
    memory: Path
    key: bytes = field(repr=False)
    context: str

    @property
    def secrets(self) -> dict[str, bytes]:
        return {layer.id: opened.secret for layer, opened in zip(self.disk, self.layers, strict=True)}


async def open_state(artifacts: ArtifactStore, snapshots: TemplateSnapshots, ref: StateRef) -> OpenState:
    """
    Raises:
        StateMismatch: It was made with another processor, monitor, kernel or template than there is here.
        StateDamaged: A part of it is missing, or is not what was saved.
        Unavailable: The artifact store is away.
    """
    manifest = await state.read(artifacts, ref.id, ref.key)
    template = await asyncio.to_thread(state.find_template, snapshots, manifest)
    *layers, memory, devices = await asyncio.gather(*(artifacts.fetch(part) for part in manifest.parts))
    try:
        sealed = await asyncio.to_thread(devices.read_bytes)
        opened = unseal(ref.key, sealed, context=manifest.devices.name)
    except (OSError, SealBroken) as error:
        raise StateDamaged(f"The saved state {ref.id} cannot be used: its device state does not open") from error
    return OpenState(
        template=template,
        disk=[DiskLayer(state.layer_id(info.name), info) for info in manifest.layers],
        layers=[Layer(path, secret) for path, secret in zip(layers, manifest.secrets, strict=True)],
        devices=opened,
        memory=memory,
        key=ref.key,
        context=manifest.memory.name,
    )
