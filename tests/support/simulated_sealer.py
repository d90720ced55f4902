"""
Sealing without `terp-vault`: layers and memory are small files, sealed in one piece.

The simulated monitor maps no memory: what is saved of it is its pid, which says whose it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from terpd.model.errors import StateDamaged
from terpd.node.jail.process import Process
from terpd.node.snapshot.memory import MemoryFailed, MemoryImage
from terpd.sealing.box import SealBroken, seal, unseal


@dataclass
class SimulatedSealer:
    """
    Faults to set: `faults` are raised by the acts of that name (`create_layer`, `open`, `copy`, `finish`, `inject`),
    `gates` hold them back while they are not set.
    """

    faults: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    injected: list[tuple[bytes, Process]] = field(default_factory=list)

    async def act(self, name: str) -> None:
        self.acts.append(name)
        if gate := self.gates.get(name):
            await gate.wait()
        if fault := self.faults.get(name):
            raise fault

    async def create_layer(self, empty: Path, target: Path, *, secret: bytes, uid: int) -> None:
        await self.act("create_layer")
        with target.open("xb") as file:
            file.write(seal(secret, b"empty", context="layer"))

    @asynccontextmanager
    async def save_memory(
        self, process: Process, base: Path, target: Path, *, key: bytes, context: str, buffer_bytes: int
    ) -> AsyncIterator[SimulatedSaving]:
        await self.act("open")
        yield SimulatedSaving(self, process, target, key, context)

    @asynccontextmanager
    async def load_memory(
        self, source: Path, base: Path, *, key: bytes, context: str
    ) -> AsyncIterator[SimulatedLoading]:
        try:
            sealed = source.read_bytes()  # noqa: ASYNC240  some bytes
            yield SimulatedLoading(self, unseal(key, sealed, context=context))
        except SealBroken as error:
            raise StateDamaged("The saved memory cannot be used") from error


@dataclass
class SimulatedSaving:
    sealer: SimulatedSealer
    process: Process
    target: Path
    key: bytes
    context: str
    copied: bytes = b""

    async def copy(self) -> None:
        await self.sealer.act("copy")
        if not self.process.alive():
            raise MemoryFailed("the machine's process has ended")
        self.copied = str(self.process.pid).encode()

    async def finish(self) -> MemoryImage:
        await self.sealer.act("finish")
        assert self.copied
        sealed = seal(self.key, self.copied, context=self.context)
        self.target.write_bytes(sealed)
        return MemoryImage(len(sealed), blake3(sealed).hexdigest(), len(self.copied))


@dataclass
class SimulatedLoading:
    sealer: SimulatedSealer
    memory: bytes

    async def inject(self, process: Process) -> None:
        await self.sealer.act("inject")
        if not process.alive():
            raise MemoryFailed("the machine's process has ended")
        self.sealer.injected.append((self.memory, process))
