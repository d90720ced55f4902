"""
Random life with random death, short in every run and long by `make soak`.

TERP_SOAK_CYCLES and TERP_SOAK_SEED set its length and its course.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.server import Server
from support.soak import Soak

_CYCLES = int(os.environ.get("TERP_SOAK_CYCLES", "14"))
_SEED = int(os.environ.get("TERP_SOAK_SEED", "1"))
_SECONDS_A_CYCLE = 60  # far more than any takes; a server that hangs must not hang the run


@pytest.mark.vm
@pytest.mark.timeout(_SECONDS_A_CYCLE * _CYCLES)
def test_nothing_is_lost_and_nothing_is_left(own_server: Callable[..., Server]) -> None:
    soak = Soak(own_server().start(), _SEED)

    soak.run(_CYCLES, kill_share=0.35)

    soak.end()
