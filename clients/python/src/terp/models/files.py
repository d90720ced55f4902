"""Files, and what happens to them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field


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
class FileEvent:
    """
    A change below a watched directory.

    Attributes:
        kind: `ready`, the first one: from now on nothing is missed. Then `created`, `modified`, `removed`, `moved`; and
            `overflow`: more happened than could be told, list the directory anew.
        path: As the guest gave it: show it, do not use it as a path on your machine.
        moved_from: Of `moved`; None when that was outside of what is watched.
    """

    kind: str
    path: str
    is_dir: bool
    moved_from: str | None = None


@dataclass(frozen=True)
class Presigned:
    """
    An address at which one file is read or written without a key, any number of times until it expires.

    Attributes:
        url: Whoever has it can use it.
        method: `GET`, or `PUT` with the content as the body and its Content-Length.
    """

    url: str = field(repr=False)
    method: str
    path: str
    expires_at: dt.datetime


@dataclass(frozen=True)
class Transfer:
    """
    What a copy of a directory came to.

    Attributes:
        files: Files, directories and links that were made.
        size: Bytes of file content.
        skipped: Names that were left out: what leads out of the directory, devices, pipes and sockets. At most 1000.
    """

    files: int
    size: int
    skipped: tuple[str, ...] = ()
