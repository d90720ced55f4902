"""Programs of the host that a build calls: found, bounded in time, and quoted when they fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from terpd.model.errors import TerpError

_DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
_QUOTED_CHARACTERS = 2000  # of a failed program's output: enough for its last words, bounded for the log


class BuildFailed(TerpError):
    """A template, kernel or initramfs could not be built. Nothing half-built is left in use."""

    code: ClassVar[str] = "build_failed"


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """
    Run a program to its end and return its standard output.

    It gets a process group of its own, killed as a whole at the time limit or on an interrupt, and dies with this
    process: nothing goes on writing into a directory that the next build removes.

    Args:
        timeout_s: Generous: downloads are in it. A build must end, not be quick.
        env: Added to this process's environment.

    Raises:
        BuildFailed: The program is missing, failed or ran out of time; quotes the end of its output.
    """
    words = [str(word) for word in argv]
    if shutil.which(words[0]) is None:
        raise BuildFailed(f"The program {words[0]} is needed and was not found; `make setup` installs it")
    with subprocess.Popen(
        [*_DIE_WITH_US, *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildFailed(f"{words[0]} was stopped after {timeout_s:g} s: {' '.join(words)}") from error
            raise
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip()[-_QUOTED_CHARACTERS:]
        raise BuildFailed(f"{' '.join(words)} failed with exit code {process.returncode}:\n{said}")
    return out
