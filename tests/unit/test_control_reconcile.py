"""The plan that closes the gap between records and machines: every case by name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.sandboxes import make_sandbox

from terpd.control.reconcile import Plan, plan_reconcile
from terpd.model.ids import new_sandbox_id
from terpd.model.sandbox import EndReason, Sandbox, Status

STARTING = make_sandbox(status=Status.STARTING)
RUNNING = make_sandbox(status=Status.RUNNING)
UNKNOWN = new_sandbox_id()

NOTHING = Plan(stop=[], fail=[], adopt=[])
FAILED_START = (STARTING.id, EndReason.START_FAILED)


@pytest.mark.parametrize(
    ("before", "machines", "after", "at_start", "plan"),
    [
        pytest.param([], [], [], True, NOTHING, id="nothing anywhere"),
        pytest.param(
            [STARTING],
            [],
            [STARTING],
            True,
            Plan([STARTING.id], [FAILED_START], []),
            id="create died before its machine",
        ),
        pytest.param(
            [STARTING],
            [STARTING.id],
            [STARTING],
            True,
            Plan([STARTING.id], [FAILED_START], []),
            id="create died before its second record",
        ),
        pytest.param([STARTING], [], [STARTING], False, NOTHING, id="create at work, machine not yet awake"),
        pytest.param([STARTING], [STARTING.id], [STARTING], False, NOTHING, id="create at work, machine awake"),
        pytest.param([RUNNING], [RUNNING.id], [RUNNING], True, Plan([], [], [RUNNING.id]), id="survivor is adopted"),
        pytest.param(
            [RUNNING], [], [RUNNING], True, Plan([], [(RUNNING.id, EndReason.MACHINE_LOST)], []), id="machine is lost"
        ),
        pytest.param([RUNNING], [], [], False, NOTHING, id="terminated while looking"),
        pytest.param([], [], [RUNNING], False, NOTHING, id="created while looking"),
        pytest.param([], [RUNNING.id], [RUNNING], False, NOTHING, id="created while looking, machine seen"),
        pytest.param([], [UNKNOWN], [], False, Plan([UNKNOWN], [], []), id="machine without a record"),
        pytest.param(
            [RUNNING], [RUNNING.id], [], False, Plan([RUNNING.id], [], []), id="terminated while looking, machine seen"
        ),
    ],
)
def test_plan(
    before: Sequence[Sandbox],
    machines: Sequence[str],
    after: Sequence[Sandbox],
    at_start: bool,  # noqa: FBT001
    plan: Plan,
) -> None:
    """Stop what nobody owns, fail what has nothing, adopt what fits, and leave alone what is being worked on."""
    assert plan_reconcile(before, machines, after, at_start=at_start) == plan  # type: ignore[arg-type]
