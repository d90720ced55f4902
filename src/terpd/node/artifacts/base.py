"""
The seam to wherever artifacts are kept: immutable files under names of ours, encrypted before they come here.

    states/<state id>/{manifest.json, memory, devices}     layers/<layer id>.qcow2
    volumes/<volume id>/{manifest.json, <id>.qcow2}

A name is written once and never changed, so a file that is there and whole is right. What a store hands out has been
checked against the digest that the (authenticated) manifest gives; a manifest itself is checked by its reader.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_ULID = "[0-9A-HJKMNP-TV-Z]{26}"
_NAME = re.compile(
    rf"states/snap_{_ULID}/(manifest\.json|memory|devices)|layers/l_{_ULID.lower()}\.qcow2"
    rf"|volumes/vol_{_ULID}/(manifest\.json|l_{_ULID.lower()}\.qcow2)"
)


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """What must be found under *name*: *size* bytes of that BLAKE3 digest, 64 hex digits."""

    name: str
    size: int
    digest: str


def is_name(text: str) -> bool:
    """Whether *text* has the form of an artifact's name, and so is safe as a path below a store's folder."""
    return _NAME.fullmatch(text) is not None


class ArtifactStore(Protocol):
    """
    All methods are idempotent, and raise Unavailable when the store is away and StorageFull when it has no room.

    Names are of this module's forms, with ids of ours: safe as paths. Any other is a bug, and raises ValueError.
    """

    def draft(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """
        A path to write a new artifact to, on the file system that `keep` takes it from. What was not kept when the
        block ends is removed; what a dead process left is removed by the next `open`.

        Raises:
            StorageFull: There is no room even before the first byte: `free_bytes` is 0.
        """

    async def open(self) -> None:
        """Make what is missing, and remove what unfinished writes of a dead process left."""

    async def keep(self, info: ArtifactInfo, path: Path) -> None:
        """
        Take over a finished file from `draft` or any file of the same file system (by a hard link: the caller may
        remove its own name). It becomes root's and read-only. Durable on return. An upload that broke off goes on
        where it was.
        """

    async def put(self, name: str, content: bytes) -> None:
        """Keep a small artifact, a manifest. Durable on return, and never seen torn."""

    async def read(self, name: str, *, limit: int) -> bytes | None:
        """A small artifact; None when there is none. Raises StateDamaged when it has more than *limit* bytes."""

    async def fetch(self, info: ArtifactInfo) -> Path:
        """
        A local, read-only file with that content, downloaded if need be. It stays for an hour at least, unless it is
        discarded; who needs it longer opens or links it.

        Raises:
            StateDamaged: It is missing, or not what was kept.
        """

    async def discard(self, name: str) -> None:
        """Remove an artifact. One that is in use as an open file lives on for that use."""

    async def names(self, prefix: str) -> Sequence[str]:
        """Names of all artifacts below *prefix*: `states/`, `layers/`, or `volumes/` and what follows."""

    def free_bytes(self) -> int:
        """Room for new artifacts on the local file system, where they are written first; 0 once only a reserve is."""
