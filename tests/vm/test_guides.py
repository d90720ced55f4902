"""
The guides of the documentation, run as their readers would run them, against real machines.

Their ```python blocks run in order, in one process; what only a test looks at stands in comments `<!-- test: … -->`.
The comment `<!-- test: the server restarts, and a new process goes on -->` is done as it says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.guides import GUIDES, programs
from support.server import Server, StartServer
from terp import Sandbox

pytestmark = pytest.mark.vm

_PATIENCE_S = 240


@pytest.fixture(scope="module")
def keeping_server(start_server: StartServer) -> Server:
    """Whose sandboxes outlive a stop."""
    return start_server("guides", dev=False, settings={"TERP_MACHINES_CAP": "6"})


@pytest.fixture
def tidy_server(keeping_server: Server) -> Iterator[Server]:
    """Without sandboxes of a guide that failed, when the next one begins."""
    yield keeping_server
    for sandbox in _alive(keeping_server):
        sandbox.terminate()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_guide_runs(guide: Path, tidy_server: Server, tmp_path: Path) -> None:
    """As printed, with nothing but the server's address and a key; and it leaves no sandbox behind."""
    environ = {**os.environ, "TERP_API_KEY": tidy_server.api_key, "TERP_BASE_URL": tidy_server.url}

    for number, program in enumerate(programs(guide)):
        if number > 0:
            tidy_server.stop()
            tidy_server.start()
        path = tmp_path / f"{guide.name}.{number}.py"
        path.write_text(program)  # lines are where they are in the guide, for tracebacks
        done = subprocess.run(
            [sys.executable, str(path)],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert _alive(tidy_server) == []


def _alive(server: Server) -> Sequence[Sandbox]:
    return [sandbox for sandbox in server.list() if sandbox.status not in {"terminated", "failed"}]
