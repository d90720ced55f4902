"""
Flattening: copying what a machine's frozen layers hold into the one it writes to, so that chains stay short.

Each resume and each snapshot adds a layer, and each layer makes the next start 3 ms slower and reads a little longer.
One machine at a time, in the background; a capture goes first, since the layers that it needs are still there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

import structlog

from terpd.model.errors import TerpError, Unavailable
from terpd.node.facilities import Facilities
from terpd.node.finished import finished
from terpd.node.machine import Machine
from terpd.node.record import DiskLayer
from terpd.node.vmm.base import VmmFailed

log = structlog.get_logger()

LONG = 4  # frozen layers of a machine's own; more are flattened when there is time
LIMIT = 16  # more are flattened before another is added


class Flattener:
    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities
        self._one = asyncio.Semaphore(1)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def consider(self, machine: Machine) -> None:
        """Flatten it soon, if its chain has become long."""
        if _frozen(machine) > LONG and not machine.unsure and machine.id not in self._tasks:
            task = asyncio.create_task(self._in_background(machine), name=f"flatten {machine.id}")
            self._tasks[machine.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(machine.id, None))

    async def give_way(self, machine: Machine) -> None:
        """Leave the chain as it is, for now."""
        if task := self._tasks.get(machine.id):
            task.cancel()
            await asyncio.wait([task])

    async def make_room(self, machine: Machine) -> None:
        """
        Return when another layer may be added: at once, or after the chain was flattened.

        Raises:
            Unavailable: It cannot be flattened.
        """
        if _frozen(machine) < LIMIT:
            return
        try:
            if not machine.unsure:
                await self._flatten(machine)
        except VmmFailed as error:
            log.warning("chain not flattened", machine=machine.id, why=str(error))
        if _frozen(machine) >= LIMIT:
            raise Unavailable("The sandbox was saved too often in a row; pause and resume it, then try again")

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _in_background(self, machine: Machine) -> None:
        try:
            await self._flatten(machine)
        except (VmmFailed, TerpError, OSError) as error:
            log.warning("chain not flattened", machine=machine.id, why=str(error))

    async def _flatten(self, machine: Machine) -> None:
        async with self._one:
            record = machine.record
            if machine.held or machine.stopping or len(record.layers) < 2:
                return
            copying = asyncio.ensure_future(machine.vm.flatten(len(record.layers) - 1))
            try:
                await asyncio.shield(copying)
            except VmmFailed:
                machine.unsure = True
                raise
            except asyncio.CancelledError:
                copying.cancel()
                await asyncio.wait([copying])
                if not copying.cancelled() and copying.exception() is None:  # it was done at that very moment
                    await self._note(machine, record.layers)
                raise
            await finished(self._note(machine, record.layers))

    async def _note(self, machine: Machine, layers: Sequence[DiskLayer]) -> None:
        *frozen, top = layers
        await machine.update(replace(machine.record, layers=(top,)))
        for layer in frozen:
            with contextlib.suppress(OSError):  # it goes with the machine
                self._facilities.layer(machine.id, layer.id).unlink(missing_ok=True)
        log.info("chain flattened", machine=machine.id, layers=len(frozen))


def _frozen(machine: Machine) -> int:
    return len(machine.record.layers) - 1
