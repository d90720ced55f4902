"""Keeping the pools filled: one machine at a time, and only while no sandbox is being created."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from terpd.model.errors import GuestFault
from terpd.model.guest import ExecRequest
from terpd.model.ids import new_exec_id
from terpd.model.sandbox import Size
from terpd.node.admission import Admission
from terpd.node.machine import Machine, first_wake
from terpd.node.pool import Pool, PoolKey
from terpd.node.starter import Starter

log = structlog.get_logger()

_EXERCISE_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.2  # whether sandboxes are still being created, before a pool is filled
_RETRY_S = 5.0  # before a kind of machine is tried again that could not be started


class Filler:
    """
    Args:
        machines: Those that live, by id; a warm one is added as soon as it starts.
        busy: Whether sandboxes are being created.
    """

    def __init__(
        self,
        pool: Pool,
        sizes: Mapping[str, Size],
        admission: Admission,
        starter: Starter,
        machines: dict[str, Machine],
        busy: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._sizes = sizes
        self._admission = admission
        self._starter = starter
        self._machines = machines
        self._busy = busy
        self._look = asyncio.Event()

    def look_again(self) -> None:
        """Something of a pool is gone, or there is more room."""
        self._look.set()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        failed: dict[PoolKey, float] = {}  # kind → when to try it again: one that fails must not keep out the others
        while True:
            failed = {key: again for key, again in failed.items() if again > loop.time()}
            large = [key for key in self._pool.targets if not self._admission.fits(self._sizes[key.size].memory_mib)]
            key = self._pool.wanted(but=[*failed, *large])
            if key is None or self._busy():
                again = min(failed.values()) - loop.time() if failed else None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), timeout=_LOOK_AGAIN_S if self._busy() else again)
                self._look.clear()
                continue
            try:
                self._pool.add(key, await self._warm_up(key))
            except Exception as error:  # noqa: BLE001  whatever it was, the pools are to be full again one day
                log.warning("pool not filled", template=key.template, size=key.size, why=str(error) or repr(error))
                failed[key] = loop.time() + _RETRY_S

    async def _warm_up(self, key: PoolKey) -> Machine:
        size = self._sizes[key.size]
        template = await self._starter.template(key.template, size, nic=key.nic)
        machine = await self._starter.fresh(template, size, None)
        self._machines[machine.id] = machine
        try:
            await machine.wake(first_wake(None, {}))
            for command in template.image.warm:
                request = ExecRequest(exec_id=new_exec_id(), command=command, timeout_s=_EXERCISE_TIMEOUT_S)
                async for _ in machine.guest.exec(request):
                    pass
            # Once more: a claim wakes a guest that ran already, and so does this, which warms its path (6 ms, then 3).
            await machine.wake(first_wake(None, {}))
            if machine.id not in self._machines:
                raise GuestFault("The machine ended while it warmed up")
        except BaseException:
            await asyncio.shield(machine.end())
            raise
        return machine
