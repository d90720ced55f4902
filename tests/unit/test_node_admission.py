"""Admission: a hard cap that is never passed, and counts that come back."""

from __future__ import annotations

import pytest

from terpd.model.errors import CapacityUnavailable
from terpd.node.admission import MONITOR_MIB, Admission


def test_a_machine_is_charged_its_memory_and_its_monitor() -> None:
    """Guest memory alone would overcommit the host by what every monitor takes."""
    admission = Admission(memory_cap_mib=2 * (1024 + MONITOR_MIB) - 1, machines_cap=10)
    admission.admit("m_1", 1024)

    assert admission.capacity().memory_used_mib == 1024 + MONITOR_MIB
    assert not admission.fits(1024)
    with pytest.raises(CapacityUnavailable) as caught:
        admission.admit("m_2", 1024)
    assert caught.value.code == "fleet_full_retry"
    assert caught.value.retry_after_s


def test_the_number_of_machines_is_capped_too() -> None:
    """Small machines must not exhaust processes and uids where memory would do."""
    admission = Admission(memory_cap_mib=1_000_000, machines_cap=1)
    admission.admit("m_1", 128)

    assert not admission.fits(128)


def test_release_makes_room_and_may_be_repeated() -> None:
    """A machine that ends twice, by itself and by request, gives back its room once."""
    admission = Admission(memory_cap_mib=1024 + MONITOR_MIB, machines_cap=10)
    admission.admit("m_1", 1024)

    admission.release("m_1")
    admission.release("m_1")

    assert admission.capacity().memory_used_mib == 0
    admission.admit("m_2", 1024)


def test_an_adopted_machine_is_counted_even_above_the_cap() -> None:
    """After the operator lowered the cap, what runs still counts, and nothing new is admitted."""
    admission = Admission(memory_cap_mib=100, machines_cap=1)

    admission.charge("m_1", 4096)

    assert admission.capacity().memory_used_mib == 4096 + MONITOR_MIB
    assert not admission.fits(1)
