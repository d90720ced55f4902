"""What is asked of a guest and what comes back, as plain values: commands, their events, files, figures."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.ids import ExecId

WRITE_ROOTS = ("/workspace", "/tmp", "/persist")
DEFAULT_CWD = "/workspace"
MAX_PATH_BYTES = 4096  # PATH_MAX of Linux
MAX_COMMAND_BYTES = 100 * 1024  # Linux hands a program no single argument above 128 KiB (MAX_ARG_STRLEN)


class OutputStream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """
    A command for the guest's shell, or an argument vector instead.

    `timeout_s` above 0; the process group gets SIGTERM at its end and SIGKILL 2 s later. None: no limit.
    `stdin` is written once the command runs, then closed; None is /dev/null.
    """

    exec_id: ExecId
    command: str = ""
    argv: Sequence[str] = ()
    cwd: str = DEFAULT_CWD
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = 60.0
    stdin: bytes | None = None


@dataclass(frozen=True, slots=True)
class ExecStarted:
    pid: int


@dataclass(frozen=True, slots=True)
class ExecOutput:
    """`offset` counts bytes of stdout and stderr together since the start of the command."""

    stream: OutputStream
    data: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class ExecExited:
    """`exit_code` is 128 + `signal` when the command was killed; `signal` is None when it ended by itself."""

    exit_code: int
    signal: int | None
    timed_out: bool
    duration_ms: int
    oom_killed: bool = False


ExecEvent = ExecStarted | ExecOutput | ExecExited


@dataclass(frozen=True, slots=True)
class FileInfo:
    """`name` is the last component, as the guest gave it: show it, never use it as a path on the host."""

    name: str
    is_dir: bool
    size: int
    mode: int
    modified_at: dt.datetime
    is_symlink: bool = False


@dataclass(frozen=True, slots=True)
class GuestStats:
    uptime_ms: int
    cpu_usage_us: int
    memory_total_bytes: int
    memory_used_bytes: int
    disk_total_bytes: int
    disk_used_bytes: int
    processes: int
    execs: int
