"""The whole public surface of the published client: what works, and what is declared not to work yet."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.orkestr_client import OrkestrClient

pytestmark = pytest.mark.vm

_EXPECTED = tomllib.loads((Path(__file__).parent / "expected_failures.toml").read_text())
_EXPECTED_CALLS = [call for group in _EXPECTED.values() for call in group["calls"]]


@pytest.fixture(scope="module")
def outcomes(client: OrkestrClient) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = client.run("calls", "outcomes")
    return result


def test_every_public_call_is_made(client: OrkestrClient, outcomes: dict[str, Any]) -> None:
    """No call of the published client is left out: each is made, and each expected failure is one of them."""
    made = {name.split("(")[0] for name in outcomes}
    assert set(client.run("calls", "surface")) == made
    assert set(_EXPECTED_CALLS) <= set(outcomes)
    assert all(group["reason"] for group in _EXPECTED.values())


@pytest.mark.parametrize("call", _EXPECTED_CALLS)
def test_expected_failure(outcomes: dict[str, Any], call: str) -> None:
    """What is not offered fails with an error of the client's own, a clear text and a 4xx; a stale entry fails."""
    outcome = outcomes[call]
    assert outcome["error"] is not None, f"{call} works now: remove its entry from expected_failures.toml"
    assert outcome["clear"], outcome
    assert 400 <= outcome["status"] < 500, outcome


def test_all_other_calls_work(outcomes: dict[str, Any]) -> None:
    """Whatever is not declared to fail works."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome["error"] and name not in _EXPECTED_CALLS}
    assert not failed
