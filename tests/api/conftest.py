from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from support.api import RunningApi, running_api

from terpd.api.pace import Pace


@pytest.fixture(autouse=True, scope="session")
def plain_tracebacks() -> None:
    """The default shows all variables of all frames: that took longer than a client waits."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningApi]:
    """A server with the real pace."""
    async with running_api(tmp_path) as running:
        yield running


@pytest.fixture
async def hasty_api(tmp_path: Path) -> AsyncIterator[RunningApi]:
    """A server that drips and keeps alive without patience."""
    async with running_api(tmp_path, pace=Pace(patience_s=0.01, drip_s=0.01, keepalive_s=0.01)) as running:
        yield running
