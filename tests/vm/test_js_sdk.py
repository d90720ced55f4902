"""The JavaScript SDK, as it is built and shipped, against a real server with real machines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.server import Server

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/js"
_PATIENCE_S = 900


def test_javascript_sdk(server: Server) -> None:
    """Its own tests pass, with server and key from the environment as its users have them."""
    subprocess.run([str(ROOT / "tools/setup"), "js"], check=True)  # what is tested is what is there now
    environ = {**os.environ, "TERP_BASE_URL": server.url, "TERP_API_KEY": server.api_key}
    vitest = [str(CLIENT / "node_modules/.bin/vitest"), "run", "--config", "vitest.real.config.ts"]

    run = subprocess.run(
        vitest, cwd=CLIENT, env=environ, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
