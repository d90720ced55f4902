"""Each live machine has a uid of its own."""

from __future__ import annotations

import os

import pytest

from terpd.model.errors import CapacityUnavailable
from terpd.node.jail.uids import UidRange


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_all_differ_until_none_is_left() -> None:
    """Every uid of the range is handed out once; then there is no capacity."""
    uids = UidRange(1000, 3)

    taken = {uids.take() for _ in range(3)}

    assert taken == {1000, 1001, 1002}
    with pytest.raises(CapacityUnavailable):
        uids.take()


def test_given_back_comes_last() -> None:
    """A uid is reused as late as possible, and only after it was given back."""
    uids = UidRange(1000, 3)
    first = uids.take()
    uids.give_back(first)

    assert [uids.take() for _ in range(3)] == [1001, 1002, 1000]


def test_adopted_is_taken() -> None:
    """The uid of a machine that outlived the daemon is not handed out; one outside the range does no harm."""
    uids = UidRange(1000, 2)
    uids.reserve(1000)
    uids.reserve(5)

    assert uids.take() == 1001
    with pytest.raises(CapacityUnavailable):
        uids.take()
    uids.give_back(1000)
    uids.give_back(1000)
    assert uids.take() == 1000


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is not root has its own uid to give, to any number of machines."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    uids = UidRange(1000, 1)

    assert [uids.take(), uids.take()] == [1234, 1234]
