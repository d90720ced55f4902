"""
Guest memory between a machine and a file: what differs from the template's, compressed and encrypted by `terp-vault`.

    capture   open (while the guest runs) → [the machine is stopped] → copy → [it may run on] → finish
    load      open (while the monitor starts) → inject → [device state is loaded, the machine runs]

A machine whose `inject` did not return is to be ended: part of its memory may be another's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from terpd.model.errors import StateDamaged, StorageFull
from terpd.node.jail.process import Process
from terpd.node.vault import Vault, VaultFailed, opened

_MIB = 1 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL

# Far beyond what a host in order needs: it reads and writes 1 GB/s, and the largest machine has some GB.
_READY_S = 30.0
_COPY_S = 300.0
_WRITE_S = 900.0
_INJECT_S = 300.0


class MemoryFailed(Exception):
    """The machine's memory was not saved or not restored, for no fault of the image. For the log."""


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """
    A finished file.

    Attributes:
        size: Of the file, in bytes.
        digest: BLAKE3 of the file, 64 hex digits.
        dirty_bytes: Memory that differs from the template's, pages of zeros included.
    """

    size: int
    digest: str
    dirty_bytes: int


class MemoryCapture:
    """Made by `open`; leaving the context ends it. What it wrote so far stays in the target, which is the caller's."""

    def __init__(self, vault: Vault, process: Process) -> None:
        self._vault = vault
        self._process = process

    @classmethod
    @asynccontextmanager
    async def open(
        cls, vault: Path, *, process: Process, base: Path, target: Path, key: bytes, context: str, buffer_bytes: int
    ) -> AsyncIterator[Self]:
        """
        Prepare all that can be prepared while the guest runs.

        Args:
            vault: The program `terp-vault`.
            base: The template's memory, which *process* maps privately.
            target: Made here; must not exist.
            key: 32 bytes.
            context: What the image is and whose; must be the same at the load. It is no secret.
            buffer_bytes: Changed memory up to this size is copied and encoded after the stop. 0: all is encoded during
                the stop, with 8 MiB.

        Raises:
            StorageFull, MemoryFailed: See the methods.
        """
        async with AsyncExitStack() as held:
            with _faults(), opened(base, os.O_RDONLY) as base_fd, opened(target, _NEW) as target_fd:
                arguments = ["save", "--pid", str(process.pid), "--base", str(base_fd), "--out", str(target_fd)]
                arguments += ["--context", context, "--buffer-mib", str(-(-buffer_bytes // _MIB))]
                running = Vault(vault, arguments, secret=key, fds=[base_fd, target_fd])
                await held.enter_async_context(running)
                await running.event("ready", within_s=_READY_S)
                _require(process)
            yield cls(running, process)

    async def copy(self) -> None:
        """
        Read what changed. The machine is stopped; on return it may run on.

        Raises:
            StorageFull, MemoryFailed: It was not read. Nothing in the machine has changed.
        """
        with _faults():
            self._vault.tell("copy")
            await self._vault.event("copied", within_s=_COPY_S)
            # Alive now means that it was the same all the time, and no later process of its number.
            _require(self._process)

    async def finish(self) -> MemoryImage:
        """
        Return when the image is written and synced (its name in the directory is not).

        Raises:
            StorageFull, MemoryFailed: It is not whole.
        """
        with _faults():
            done = await self._vault.event("done", within_s=_WRITE_S)
            return MemoryImage(int(str(done["size"])), str(done["digest"]), int(str(done["dirty_bytes"])))


class MemoryLoad:
    """Made by `open`; leaving the context ends it."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @classmethod
    @asynccontextmanager
    async def open(cls, vault: Path, *, source: Path, base: Path, key: bytes, context: str) -> AsyncIterator[Self]:
        """
        Begin to decrypt, up to 64 MiB ahead of `inject`. The arguments are those of the capture.

        Raises:
            StateDamaged: The image is not what was saved under this key and context.
            MemoryFailed: See `inject`.
        """
        async with AsyncExitStack() as held:
            with _faults(), opened(base, os.O_RDONLY) as base_fd, opened(source, os.O_RDONLY) as source_fd:
                arguments = ["load", "--in", str(source_fd), "--base", str(base_fd), "--context", context]
                running = Vault(vault, arguments, secret=key, fds=[base_fd, source_fd])
                await held.enter_async_context(running)
                await running.event("ready", within_s=_READY_S)
            yield cls(running)

    async def inject(self, process: Process) -> None:
        """
        Write the saved pages into a machine that maps the base and has not run yet.

        Raises:
            StateDamaged: As above; a part may have been written.
            MemoryFailed: The process has ended or does not map the base as it must, or the host failed.
        """
        with _faults():
            _require(process)
            self._vault.tell(str(process.pid))
            await self._vault.event("done", within_s=_INJECT_S)
            _require(process)


def _require(process: Process) -> None:
    if not process.alive():
        raise MemoryFailed(f"the machine's process {process.pid} has ended")


@contextmanager
def _faults() -> Iterator[None]:
    """Turn the vault's faults, and those of opening its files, into the errors that are documented here."""
    try:
        yield
    except VaultFailed as error:
        if error.code == "disk_full":
            raise _full(error) from error
        if error.code == "damaged":
            detail = "The saved memory cannot be used: it is not what was saved"
            raise StateDamaged(detail, context={"vault": str(error)}) from error
        raise MemoryFailed(f"{error.code}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(error) from error
        raise MemoryFailed(str(error)) from error


def _full(error: Exception) -> StorageFull:
    return StorageFull(
        "The server's disk has no room for the machine's memory; try again later, or ask the operator to make room",
        context={"vault": str(error)},
    )
