"""Captures under way, one a sandbox: each in a task of its own, which who stops the machine can cancel."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from terpd.model.errors import StateConflict, Unavailable
from terpd.model.ids import SandboxId, StateId
from terpd.model.ports import StateRef
from terpd.model.snapshot import SavedState
from terpd.node.facilities import Facilities
from terpd.node.machine import Machine
from terpd.node.snapshot.capture import Capture
from terpd.node.snapshot.flatten import Flattener
from terpd.node.snapshot.manifest import SnapshotMismatch
from terpd.node.snapshot.template import TemplateSnapshots


@dataclass(frozen=True, slots=True)
class _UnderWay:
    task: asyncio.Task[SavedState]
    capture: Capture
    state_id: StateId


class Captures:
    def __init__(self, facilities: Facilities, snapshots: TemplateSnapshots, flattener: Flattener) -> None:
        self._facilities = facilities
        self._snapshots = snapshots
        self._flattener = flattener
        self._under_way: dict[SandboxId, _UnderWay] = {}

    @property
    def states(self) -> set[StateId]:
        """States that are being written."""
        return {each.state_id for each in self._under_way.values()}

    @property
    def layers(self) -> set[str]:
        """Names of the layers that these have written."""
        return {name for each in self._under_way.values() for name in each.capture.kept}

    def under_way(self, sandbox_id: SandboxId) -> bool:
        """Whether it is being captured."""
        return sandbox_id in self._under_way

    async def take(
        self,
        sandbox_id: SandboxId,
        machine: Machine,
        key: bytes,
        into: StateRef,
        *,
        hold: bool,
        withhold_secrets: bool,
    ) -> SavedState:
        """
        Capture a machine. Raises as `Node.pause_machine` and `Node.snapshot_machine`.

        Cancelling it undoes it, as `cancel` does.
        """
        if sandbox_id in self._under_way:
            raise StateConflict(f"Sandbox {sandbox_id} is being saved already; wait until that has ended")
        if not machine.record.layers:
            raise StateConflict(
                f"Sandbox {sandbox_id} was started by an earlier release, which could not save it; create a new one"
            )
        try:
            template = self._snapshots.open_exact(machine.record.template, machine.record.origin)
        except SnapshotMismatch as error:
            raise Unavailable(
                f"The template of sandbox {sandbox_id} is gone, and it cannot be saved without",
                context={"why": str(error)},
            ) from error
        capture = Capture(machine, self._facilities, template, key, into, withhold_secrets=withhold_secrets)
        task = asyncio.create_task(self._take(capture, machine, hold=hold), name=f"capture {sandbox_id}")
        self._under_way[sandbox_id] = _UnderWay(task, capture, into.id)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling():
                raise
            if machine.stopping:
                raise StateConflict(f"Sandbox {sandbox_id} was terminated while it was being saved") from None
            raise Unavailable("This node is stopping; try again") from None
        finally:
            del self._under_way[sandbox_id]

    async def cancel(self, sandbox_id: SandboxId) -> None:
        """Undo one that is under way. On return the machine runs, or ends."""
        if under_way := self._under_way.get(sandbox_id):
            under_way.task.cancel()
            await asyncio.wait([under_way.task])

    async def close(self) -> None:
        await asyncio.gather(*(self.cancel(sandbox_id) for sandbox_id in list(self._under_way)))

    async def _take(self, capture: Capture, machine: Machine, *, hold: bool) -> SavedState:
        await self._flattener.give_way(machine)
        if not hold:
            await self._flattener.make_room(machine)
        try:
            return await capture.take(hold=hold)
        finally:
            if not machine.held:
                self._flattener.consider(machine)
