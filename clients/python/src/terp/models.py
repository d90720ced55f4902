"""What comes back, as frozen values. Times are aware UTC, sizes in bytes unless the name says otherwise."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from terp.errors import CommandFailed


@dataclass(frozen=True)
class SandboxInfo:
    """
    A sandbox as the server last described it.

    Attributes:
        id: `sbx_` and 26 characters.
        status: `starting`, `running`, `terminated` or `failed`; a newer server may know more.
        size: The size asked for; None when the server does not say.
        cpu: Virtual processors.
        memory_mb: Guest memory in MiB.
        network: `off`, `restricted` or `open`.
        on_timeout: What happens at `expires_at`: `kill` or `pause`.
        expires_at: End of the lease; stays readable when the sandbox is no more.
        end_reason: Why it is no more: `user`, `lease`, `start_failed`, `machine_lost`, `shutdown`; None while it is.
        metadata: The caller's own labels.
    """

    id: str
    status: str
    template: str
    size: str | None
    network: str
    cpu: float
    memory_mb: int
    region: str
    created_at: dt.datetime
    expires_at: dt.datetime
    on_timeout: str
    end_reason: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class ExecResult:
    """
    What a command left behind.

    Attributes:
        stdout, stderr: Decoded as UTF-8, undecodable bytes replaced; `exec_stream` gives the bytes.
        exit_code: 0 to 255. Not 0 is a value, no error, until `check` is called.
        duration_ms: Run time in the guest.
        truncated: More than 16 MiB came on a stream; what followed is not in the text.
    """

    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int
    truncated: bool = False

    def check(self) -> ExecResult:
        """
        Return this result.

        Raises:
            CommandFailed: The exit code is not 0.
        """
        if self.exit_code != 0:
            raise CommandFailed(self)
        return self


@dataclass(frozen=True)
class Started:
    """The command runs. First event of every stream."""

    pid: int


@dataclass(frozen=True)
class Stdout:
    """
    The command wrote to its standard output.

    Attributes:
        data: The bytes as written.
        text: The same decoded as UTF-8; a character cut by the end of `data` comes with the next event.
    """

    data: bytes = field(repr=False)
    text: str


@dataclass(frozen=True)
class Stderr:
    """The command wrote to its standard error. Attributes as in `Stdout`."""

    data: bytes = field(repr=False)
    text: str


@dataclass(frozen=True)
class Exited:
    """The command has ended by itself. Last event of every stream."""

    exit_code: int
    duration_ms: int


ExecEvent = Started | Stdout | Stderr | Exited


@dataclass(frozen=True)
class FileInfo:
    """
    A file or directory in a sandbox.

    Attributes:
        name: Last component as the guest gave it: show it, do not use it as a path on your machine.
        size: Bytes; of a directory, whatever the guest's file system says.
        mode: Permission bits.
    """

    name: str
    path: str
    is_dir: bool
    size: int
    mode: int
    modified_at: dt.datetime
    is_symlink: bool = False


@dataclass(frozen=True)
class SizeInfo:
    """A size that can be asked for: virtual processors, MiB of memory, and whether this key may have it."""

    name: str
    cpu: float
    memory_mb: int
    allowed: bool


@dataclass(frozen=True)
class Limits:
    """
    What this API key may have.

    Attributes:
        max_concurrent: Sandboxes alive at once.
        max_timeout_seconds: Longest lease; None when the server did not say.
    """

    plan: str
    max_concurrent: int
    sizes: tuple[SizeInfo, ...]
    max_timeout_seconds: int | None
