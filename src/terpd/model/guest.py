"""What is asked of a guest and what comes back, as plain values: commands, their events, files, figures."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.ids import ExecId

WRITE_ROOTS = ("/workspace", "/tmp", "/persist")
DEFAULT_CWD = "/workspace"
MAX_PATH_BYTES = 4096  # PATH_MAX of Linux
MAX_COMMAND_BYTES = 100 * 1024  # Linux hands a program no single argument above 128 KiB (MAX_ARG_STRLEN)


MAX_LOG_READ_BYTES = 1024 * 1024  # of one read of a background command's log
MAX_INPUT_BYTES = 32 * 1024  # of one write to a terminal


class OutputStream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True)
class PtySize:
    """Of a terminal, in characters: each 1 to 1000."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """
    A command for the guest's shell, or an argument vector instead.

    `timeout_s` above 0; the process group gets SIGTERM at its end and SIGKILL 2 s later. None: no limit.
    `stdin` is written once the command runs, then closed; None is /dev/null.

    Attributes:
        secrets: Variables over *env*, in the guest agent's memory until the command is spawned and nowhere else.
        background: Started and not followed: the only event is ExecStarted. Its output, stdout and stderr in the order
            they were written, goes to a log in the guest.
        pty: A terminal of its own; like *background*, started and not followed. Its output is kept in a bounded ring.
    """

    exec_id: ExecId
    command: str = ""
    argv: Sequence[str] = ()
    cwd: str = DEFAULT_CWD
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = 60.0
    stdin: bytes | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    background: bool = False
    pty: PtySize | None = None


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
class CommandInfo:
    """
    A background command or a terminal. `exited` is None while it runs.

    `command` is its first 4 KiB and, like `started_at`, what the guest says.
    """

    exec_id: ExecId
    command: str
    pid: int
    started_at: dt.datetime
    pty: bool
    exited: ExecExited | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """
    Bytes `offset` to `offset + len(data)` of a log that holds bytes `first_offset` to `size` now.

    `exited` is None while the command runs: `size` may then grow.
    """

    data: bytes
    first_offset: int
    offset: int
    size: int
    exited: ExecExited | None


class FileChange(StrEnum):
    READY = "ready"  # the first one: from now on nothing is missed
    CREATED = "created"
    MODIFIED = "modified"
    REMOVED = "removed"
    MOVED = "moved"
    OVERFLOW = "overflow"  # more happened than could be told: list anew


@dataclass(frozen=True, slots=True)
class FileEvent:
    """`path` is absolute; both paths are as the guest gave them: show them, never use them on the host."""

    change: FileChange
    path: str
    is_dir: bool
    moved_from: str | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """What came of a tar stream: entries made, and bytes of file content."""

    files: int
    size: int


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
class OpenFile:
    """What a file was when it was opened, and the bytes of it that were asked for; whoever has it closes `chunks`."""

    info: FileInfo
    chunks: AsyncGenerator[bytes, None]


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
