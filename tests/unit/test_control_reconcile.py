"""The plan that closes the gap between records and machines: every case by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sandboxes import NOON, make_sandbox

from terpd.control.reconcile_plan import Step, plan_reconcile
from terpd.model.ids import SandboxId, StateId, new_sandbox_id, new_state_id
from terpd.model.ports import MachinePhase
from terpd.model.sandbox import LIVE, Sandbox, Status

AWAKE, HELD = MachinePhase.AWAKE, MachinePhase.HELD
STATE = new_state_id()
ONE = make_sandbox(status=Status.STARTING)
UNKNOWN = new_sandbox_id()


def one(status: Status) -> Sandbox:
    state_id = STATE if status in (Status.PAUSING, Status.PAUSED, Status.RESUMING) else None
    return dataclasses.replace(ONE, status=status, state_id=state_id)


@pytest.mark.parametrize(
    ("status", "phase", "step"),
    [
        (Status.STARTING, None, Step.FAIL_START),
        (Status.STARTING, AWAKE, Step.FAIL_START),
        (Status.STARTING, HELD, Step.FAIL_START),
        (Status.RUNNING, None, Step.FAIL_LOST),
        (Status.RUNNING, AWAKE, Step.ADOPT),
        (Status.RUNNING, HELD, Step.CONTINUE),  # a snapshot died
        (Status.PAUSING, None, Step.FAIL_LOST),
        (Status.PAUSING, AWAKE, Step.UNDO_PAUSE),
        (Status.PAUSING, HELD, Step.UNDO_PAUSE),
        (Status.PAUSED, None, None),
        (Status.PAUSED, AWAKE, Step.STOP),
        (Status.PAUSED, HELD, Step.STOP),
        (Status.RESUMING, None, Step.UNDO_RESUME),
        (Status.RESUMING, AWAKE, Step.FINISH_RESUME),
        (Status.RESUMING, HELD, Step.UNDO_RESUME),
    ],
)
def test_what_was_left_in_each_state(status: Status, phase: MachinePhase | None, step: Step | None) -> None:
    """Alone it is put in order; while a use case is at work on it, or was meanwhile, it is left alone."""
    machines = {} if phase is None else {ONE.id: phase}
    expected = {} if step is None else {ONE.id: step}
    assert plan_reconcile([one(status)], machines, [one(status)], at_work=[], saved=[]) == expected
    assert plan_reconcile([one(status)], machines, [one(status)], at_work=[ONE.id], saved=[]) == {}


@pytest.mark.parametrize("phase", [None, AWAKE, HELD])
def test_saved_state_counts_only_if_the_machine_is_gone(phase: MachinePhase | None) -> None:
    """A machine that is still there holds what happened since."""
    machines = {} if phase is None else {ONE.id: phase}
    expected = Step.FINISH_PAUSE if phase is None else Step.UNDO_PAUSE
    sandbox = one(Status.PAUSING)
    assert plan_reconcile([sandbox], machines, [sandbox], at_work=[], saved=[STATE]) == {ONE.id: expected}


@pytest.mark.parametrize(
    ("before", "machines", "after", "plan"),
    [
        pytest.param([], {}, [], {}, id="nothing anywhere"),
        pytest.param([one(Status.STARTING)], {}, [], {}, id="create ended while looking"),
        pytest.param([one(Status.STARTING)], {ONE.id: AWAKE}, [one(Status.RUNNING)], {}, id="create succeeded"),
        pytest.param([], {}, [one(Status.STARTING)], {}, id="create began while looking"),
        pytest.param([one(Status.RUNNING)], {}, [], {}, id="terminated while looking"),
        pytest.param([], {}, [one(Status.RUNNING)], {}, id="created while looking"),
        pytest.param([], {ONE.id: AWAKE}, [one(Status.RUNNING)], {}, id="created while looking, machine seen"),
        pytest.param([], {UNKNOWN: AWAKE}, [], {UNKNOWN: Step.STOP}, id="machine without a record"),
        pytest.param([], {UNKNOWN: HELD}, [], {UNKNOWN: Step.STOP}, id="held machine without a record"),
        pytest.param(
            [one(Status.RUNNING)], {ONE.id: AWAKE}, [], {ONE.id: Step.STOP}, id="terminated, machine seen before"
        ),
        pytest.param([one(Status.RUNNING)], {}, [one(Status.PAUSED)], {}, id="paused while looking"),
        pytest.param(
            [dataclasses.replace(one(Status.RUNNING), window_began_at=NOON)],
            {},
            [dataclasses.replace(one(Status.RUNNING), window_began_at=NOON.replace(hour=13))],
            {},
            id="paused and resumed while looking",
        ),
    ],
)
def test_what_changes_meanwhile(
    before: Sequence[Sandbox],
    machines: Mapping[SandboxId, MachinePhase],
    after: Sequence[Sandbox],
    plan: Mapping[SandboxId, Step],
) -> None:
    """Who changed it is still there to finish it; a machine without any record has nobody."""
    assert plan_reconcile(before, machines, after, at_work=[], saved=[]) == plan


_sandboxes = st.builds(
    lambda status, state_id: dataclasses.replace(
        make_sandbox(status=status), state_id=state_id if status in (Status.PAUSING, Status.PAUSED) else None
    ),
    st.sampled_from(sorted(LIVE)),
    st.builds(new_state_id),
)


@given(
    st.lists(
        st.tuples(_sandboxes, st.sampled_from([None, AWAKE, HELD]), st.booleans(), st.booleans(), st.booleans()),
        max_size=6,
    )
)
def test_nothing_that_is_needed_is_given_up(
    cases: Sequence[tuple[Sandbox, MachinePhase | None, bool, bool, bool]],
) -> None:
    """
    Whatever is seen: a sandbox is given up only if it has neither a machine nor a saved state; a machine is stopped
    only if no sandbox needs what it holds; and what anybody is at work on is not touched.
    """
    records = [sandbox for sandbox, *_ in cases]
    machines = {sandbox.id: phase for sandbox, phase, *_ in cases if phase is not None}
    ended = {sandbox.id for sandbox, _, gone, _, _ in cases if gone}
    busy = {sandbox.id for sandbox, _, _, at_work, _ in cases if at_work}
    saved: set[StateId] = {s.state_id for s, _, _, _, whole in cases if whole and s.state_id is not None}
    after = [sandbox for sandbox in records if sandbox.id not in ended]
    plan = plan_reconcile(records, machines, after, at_work=busy, saved=saved)
    assert not busy & set(plan)
    for sandbox in records:
        step = plan.get(sandbox.id)
        if sandbox.id in ended:
            assert step in (None, Step.STOP)
        elif step is Step.FAIL_LOST:
            assert sandbox.id not in machines
            assert sandbox.status is Status.RUNNING or sandbox.state_id not in saved
        elif step in (Step.STOP, Step.UNDO_RESUME):
            assert sandbox.status in (Status.PAUSED, Status.RESUMING)
            assert (sandbox.status, machines.get(sandbox.id)) != (Status.RESUMING, AWAKE)
