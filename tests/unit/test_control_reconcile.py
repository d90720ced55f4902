"""The plan that closes the gap between records and machines: every case by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from support.sandboxes import make_sandbox

from terpd.control.reconcile import Plan, plan_reconcile
from terpd.model.ids import new_sandbox_id
from terpd.model.sandbox import EndReason, Sandbox, Status

STARTING = make_sandbox(status=Status.STARTING)
STARTED = dataclasses.replace(STARTING, status=Status.RUNNING)
RUNNING = make_sandbox(status=Status.RUNNING)
UNKNOWN = new_sandbox_id()

NOTHING = Plan(stop=[], fail=[], adopt=[])
FAILED_START = (STARTING.id, EndReason.START_FAILED)


@pytest.mark.parametrize(
    ("before", "machines", "after", "creating", "plan"),
    [
        pytest.param([], [], [], [], NOTHING, id="nothing anywhere"),
        pytest.param(
            [STARTING],
            [],
            [STARTING],
            [],
            Plan([STARTING.id], [FAILED_START], []),
            id="create died before its machine",
        ),
        pytest.param(
            [STARTING],
            [STARTING.id],
            [STARTING],
            [],
            Plan([STARTING.id], [FAILED_START], []),
            id="create died before its second record",
        ),
        pytest.param([STARTING], [], [STARTING], [STARTING.id], NOTHING, id="create at work, machine not yet awake"),
        pytest.param([STARTING], [STARTING.id], [STARTING], [STARTING.id], NOTHING, id="create at work, machine awake"),
        pytest.param([STARTING], [], [], [], NOTHING, id="create ended while looking"),
        pytest.param([STARTING], [STARTING.id], [STARTED], [], NOTHING, id="create succeeded while looking"),
        pytest.param([], [], [STARTING], [], NOTHING, id="create began while looking"),
        pytest.param([RUNNING], [RUNNING.id], [RUNNING], [], Plan([], [], [RUNNING.id]), id="survivor is adopted"),
        pytest.param(
            [RUNNING], [], [RUNNING], [], Plan([], [(RUNNING.id, EndReason.MACHINE_LOST)], []), id="machine is lost"
        ),
        pytest.param([RUNNING], [], [], [], NOTHING, id="terminated while looking"),
        pytest.param([], [], [RUNNING], [], NOTHING, id="created while looking"),
        pytest.param([], [RUNNING.id], [RUNNING], [], NOTHING, id="created while looking, machine seen"),
        pytest.param([], [UNKNOWN], [], [], Plan([UNKNOWN], [], []), id="machine without a record"),
        pytest.param(
            [RUNNING], [RUNNING.id], [], [], Plan([RUNNING.id], [], []), id="terminated while looking, machine seen"
        ),
    ],
)
def test_plan(
    before: Sequence[Sandbox],
    machines: Sequence[str],
    after: Sequence[Sandbox],
    creating: Sequence[str],
    plan: Plan,
) -> None:
    """Stop what nobody owns, fail what has nothing, adopt what fits, and leave alone what is being worked on."""
    assert plan_reconcile(before, machines, after, creating=creating) == plan  # type: ignore[arg-type]
