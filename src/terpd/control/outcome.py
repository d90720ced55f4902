"""Which ends of a command are failures: its timeout and a signal are, a non-zero exit code is not."""

from __future__ import annotations

from terpd.model.errors import ExecKilled, ExecTimeout, TerpError
from terpd.model.guest import ExecExited

TIMEOUT_EXIT_CODE = 124  # as timeout(1) of coreutils exits


def failure_of(exited: ExecExited) -> TerpError | None:
    if exited.timed_out:
        seconds = exited.duration_ms / 1000
        return ExecTimeout(
            f"The command was stopped at its timeout, after {seconds:.1f} s; give it more timeout_seconds",
            fields={"duration_ms": exited.duration_ms},
        )
    if exited.signal is not None:
        why = "; the sandbox ran out of memory" if exited.oom_killed else ""
        return ExecKilled(
            f"The command was killed by signal {exited.signal}{why}",
            fields={
                "signal": exited.signal,
                "exit_code": exited.exit_code,
                "duration_ms": exited.duration_ms,
                "oom_killed": exited.oom_killed,
            },
        )
    return None
