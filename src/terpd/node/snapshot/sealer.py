"""The seam to what encrypts memory and disks, and `terp-vault` behind it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from terpd.node.disk import overlay
from terpd.node.jail.process import Process
from terpd.node.snapshot.memory import MemoryCapture, MemoryFailed, MemoryImage, MemoryLoad
from terpd.node.vault import VaultFailed

SEALING_FAULTS = (MemoryFailed, VaultFailed)  # for the log; the machine or the host is at fault and not who asked


class SavingMemory(Protocol):
    """As `MemoryCapture`."""

    async def copy(self) -> None: ...

    async def finish(self) -> MemoryImage: ...


class LoadingMemory(Protocol):
    """As `MemoryLoad`."""

    async def inject(self, process: Process) -> None: ...


class Sealer(Protocol):
    """Raises StorageFull, StateDamaged and `SEALING_FAULTS`, as `disk.overlay` and `snapshot.memory` say."""

    async def create_layer(self, empty: Path, target: Path, *, secret: bytes, uid: int) -> None: ...

    def save_memory(
        self, process: Process, base: Path, target: Path, *, key: bytes, context: str, buffer_bytes: int
    ) -> AbstractAsyncContextManager[SavingMemory]: ...

    def load_memory(
        self, source: Path, base: Path, *, key: bytes, context: str
    ) -> AbstractAsyncContextManager[LoadingMemory]: ...


class VaultSealer:
    """Args: *program*, the path of `terp-vault`."""

    def __init__(self, program: Path) -> None:
        self._program = program

    async def create_layer(self, empty: Path, target: Path, *, secret: bytes, uid: int) -> None:
        await overlay.create(self._program, empty, target, secret=secret, uid=uid)

    def save_memory(
        self, process: Process, base: Path, target: Path, *, key: bytes, context: str, buffer_bytes: int
    ) -> AbstractAsyncContextManager[SavingMemory]:
        return MemoryCapture.open(
            self._program,
            process=process,
            base=base,
            target=target,
            key=key,
            context=context,
            buffer_bytes=buffer_bytes,
        )

    def load_memory(
        self, source: Path, base: Path, *, key: bytes, context: str
    ) -> AbstractAsyncContextManager[LoadingMemory]:
        return MemoryLoad.open(self._program, source=source, base=base, key=key, context=context)
