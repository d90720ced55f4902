"""
What to do about each sandbox whose record and machine do not fit, from what is seen of both: pure.

                 no machine             AWAKE                  HELD
    STARTING     FAILED                 stop, FAILED           stop, FAILED
    RUNNING      FAILED (machine_lost)  adopt                  continue
    PAUSING      see below              continue, RUNNING      continue, RUNNING
    PAUSED       -                      stop                   stop
    RESUMING     PAUSED                 RUNNING, lease anew    stop, PAUSED
    none, final  -                      stop                   stop

PAUSING without a machine: PAUSED if its state was saved whole, or else FAILED (machine_lost).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum, auto

from terpd.model.ids import SandboxId, StateId
from terpd.model.ports import MachinePhase
from terpd.model.sandbox import Sandbox, Status


class Step(Enum):
    """What to do, each of it repeatable."""

    ADOPT = auto()  # nothing
    STOP = auto()  # the machine of no sandbox, or of one that is to have none
    FAIL_START = auto()  # stop, FAILED (start_failed)
    FAIL_LOST = auto()  # FAILED (machine_lost)
    CONTINUE = auto()  # the machine
    UNDO_PAUSE = auto()  # continue, RUNNING
    FINISH_PAUSE = auto()  # PAUSED
    UNDO_RESUME = auto()  # stop, PAUSED
    FINISH_RESUME = auto()  # RUNNING


_STEPS: Mapping[tuple[Status, MachinePhase | None], Step] = {
    # One that is STARTING or RESUMING may have a machine that is not awake and so not in the list.
    (Status.STARTING, None): Step.FAIL_START,
    (Status.STARTING, MachinePhase.AWAKE): Step.FAIL_START,
    (Status.STARTING, MachinePhase.HELD): Step.FAIL_START,
    (Status.RUNNING, None): Step.FAIL_LOST,
    (Status.RUNNING, MachinePhase.AWAKE): Step.ADOPT,
    (Status.RUNNING, MachinePhase.HELD): Step.CONTINUE,
    (Status.PAUSING, None): Step.FAIL_LOST,
    (Status.PAUSING, MachinePhase.AWAKE): Step.UNDO_PAUSE,
    (Status.PAUSING, MachinePhase.HELD): Step.UNDO_PAUSE,
    (Status.PAUSED, MachinePhase.AWAKE): Step.STOP,
    (Status.PAUSED, MachinePhase.HELD): Step.STOP,
    (Status.RESUMING, None): Step.UNDO_RESUME,
    (Status.RESUMING, MachinePhase.AWAKE): Step.FINISH_RESUME,
    (Status.RESUMING, MachinePhase.HELD): Step.UNDO_RESUME,
}


def plan_reconcile(
    before: Sequence[Sandbox],
    machines: Mapping[SandboxId, MachinePhase],
    after: Sequence[Sandbox],
    *,
    at_work: Collection[SandboxId],
    saved: Collection[StateId],
) -> Mapping[SandboxId, Step]:
    """
    Decide from the live sandboxes recorded *before* and *after* the list of *machines* was taken.

    What changed its state in between is left to those who changed it, and what is *at_work* to those who are.

    Args:
        at_work: Sandboxes on which a use case was at work at any time since *before* was taken.
        saved: States that were saved whole; of sandboxes in PAUSING all that are must be given.
    """
    now = {sandbox.id: sandbox for sandbox in after}
    steps = {sandbox_id: Step.STOP for sandbox_id in machines if sandbox_id not in now and sandbox_id not in at_work}
    for sandbox in before:
        later = now.get(sandbox.id)
        if later is None or sandbox.id in at_work or not _same(sandbox, later):
            continue
        phase = machines.get(sandbox.id)
        step = _STEPS.get((sandbox.status, phase))
        if sandbox.status is Status.PAUSING and phase is None and sandbox.state_id in saved:
            step = Step.FINISH_PAUSE
        if step is not None:
            steps[sandbox.id] = step
    return steps


def _same(before: Sandbox, after: Sandbox) -> bool:
    """Whether it did not change its state; a pause and a resume in between would show in when it began to run."""
    return (before.status, before.state_id, before.window_began_at) == (
        after.status,
        after.state_id,
        after.window_began_at,
    )
