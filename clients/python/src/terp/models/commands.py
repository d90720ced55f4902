"""Commands, terminals, and what happens to them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from terp.errors import CommandFailed


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
    """
    The command runs. First event of every command's stream.

    Attributes:
        pid: In the guest.
        command_id: What `attach` follows the command by.
    """

    pid: int
    command_id: str = ""


@dataclass(frozen=True)
class Stdout:
    """
    The command wrote to its standard output.

    Attributes:
        data: The bytes as written.
        text: The same decoded as UTF-8; a character cut by the end of `data` comes with the next event.
        offset: Where `data` begins in the command's output, in bytes of both streams together: `attach` goes on
            behind it from `offset + len(data)`.
    """

    data: bytes = field(repr=False)
    text: str
    offset: int = 0


@dataclass(frozen=True)
class Stderr:
    """The command wrote to its standard error. Attributes as in `Stdout`."""

    data: bytes = field(repr=False)
    text: str
    offset: int = 0


@dataclass(frozen=True)
class Exited:
    """The command has ended by itself. Last event of every stream."""

    exit_code: int
    duration_ms: int


ExecEvent = Started | Stdout | Stderr | Exited


@dataclass(frozen=True)
class CommandInfo:
    """
    A background command as the server last described it.

    Attributes:
        command: Its first 4 KiB.
        pid: In the guest.
        status: `running`; `exited`, with an exit code; `killed`, without one: by `kill`, a signal, or lack of memory.
    """

    id: str
    command: str
    pid: int | None
    status: str
    exit_code: int | None
    started_at: dt.datetime | None


@dataclass(frozen=True)
class PtyInfo:
    """A terminal as the server last described it. Attributes as of `CommandInfo`."""

    id: str
    command: str
    pid: int | None
    status: str
    exit_code: int | None
    started_at: dt.datetime | None


@dataclass(frozen=True)
class LogPage:
    """
    A part of a background command's log.

    Attributes:
        content: Stdout and stderr in the order they were written.
        offset: Where it begins, in bytes.
        size: Bytes that the command has written until now.
        next_offset: Where the next page begins.
        truncated: More follows already.
    """

    content: str
    offset: int
    size: int
    next_offset: int
    truncated: bool
