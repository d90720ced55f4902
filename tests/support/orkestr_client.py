"""The published orkestr client in an environment of its own: made once per lock file, then only used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONFORMANCE = Path(__file__).parent.parent / "conformance"
_LOCK = _CONFORMANCE / "requirements.txt"
CASES_DIR = _CONFORMANCE / "client"
_CASE_TIMEOUT_S = 240.0


def ensure_interpreter(cache: Path) -> Path:
    """Return the Python of a virtual environment that holds exactly what the lock file says."""
    directory = cache / f"orkestr-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]}"
    python = directory / "bin/python"
    marker = directory / "complete"
    if not marker.exists():
        # Not uv, which need not be on the PATH: every Python that runs these tests can do this.
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(_LOCK)], check=True
        )
        marker.touch()
    return python


@dataclass(frozen=True)
class OrkestrClient:
    """
    Runs cases of `conformance/client` against one server.

    Args:
        context: What cases may name as their parameters, by name; see `client/__main__.py`.
        prefix: Words before the interpreter, e.g. to run it where the server is.
    """

    python: Path
    url: str
    api_key: str
    context: Mapping[str, Any]
    prefix: Sequence[str] = ()

    def run(self, module: str, case: str) -> Any:
        """Run one case in a process of its own and return what it returns. Fails with the case's own traceback."""
        done = subprocess.run(
            [*self.prefix, str(self.python), str(CASES_DIR), module, case],
            input=json.dumps(self.context),
            capture_output=True,
            text=True,
            check=False,
            timeout=_CASE_TIMEOUT_S,
            env={**os.environ, "ORKESTR_BASE_URL": self.url, "ORKESTR_API_KEY": self.api_key},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
