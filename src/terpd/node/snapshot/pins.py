"""Which template snapshots this node's machines and saved states need, pinned so that no builder removes them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from terpd.model.errors import Unavailable
from terpd.node.snapshot.manifest import Manifest, SnapshotMismatch
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.template import artifact

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SnapshotName:
    """Names the directory of a template snapshot."""

    template: str
    directory: str


class Pins:
    """
    Args:
        home: TERP_HOME.
        owner: Names this node in the pins.
    """

    def __init__(self, home: Path, owner: str) -> None:
        self._home = home
        self._owner = owner
        self._known: set[Path] = set()  # pinned, as far as this process knows
        self._held: Counter[Path] = Counter()
        self._recent: set[Path] = set()  # held at any time since the last `begin`
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def holding(self, template: TemplateSnapshot) -> AsyncIterator[None]:
        """
        Pin a template for a machine, whose record names it at the end of the block.

        Raises:
            Unavailable: It was replaced this moment.
        """
        image = template.image
        places = (template.directory, self._home / "templates" / image.template / image.digest)
        self._held.update(places)
        self._recent.update(places)
        try:
            if not self._known.issuperset(places):
                async with self._one:
                    await asyncio.to_thread(self._pin, places)
            yield
        except FileNotFoundError as error:
            raise Unavailable("The template was replaced meanwhile; try again", context={"why": str(error)}) from error
        finally:
            self._held.subtract(places)

    def begin(self) -> None:
        """Whatever is held from here on, `release` leaves alone."""
        self._recent = {place for place, count in self._held.items() if count}

    async def release(self, needed: Collection[SnapshotName]) -> None:
        """Unpin all but those that are *needed* and what was held since `begin`."""
        async with self._one:
            await asyncio.to_thread(self._release, needed)

    def _pin(self, places: Collection[Path]) -> None:
        for place in places:
            artifact.pin(place, self._owner)
            self._known.add(place)

    def _release(self, needed: Collection[SnapshotName]) -> None:
        keep = set(self._recent)
        for name in needed:
            directory = self._home / "snapshots" / name.template / name.directory
            keep.add(directory)
            try:
                keep.add(self._home / "templates" / name.template / Manifest.read(directory).made_of["image"])
            except (SnapshotMismatch, KeyError) as error:
                if directory.exists():
                    log.warning(
                        "templates stay pinned, for one cannot be read", snapshot=str(directory), why=str(error)
                    )
                    return
        for folder in ("snapshots", "templates"):
            for pin in (self._home / folder).glob(f"*/*/.pins/{self._owner}"):
                place = pin.parent.parent
                if place.is_symlink():  # the current build, which is there under its own name too
                    continue
                if place not in keep | self._recent:
                    self._known.discard(place)
                    artifact.unpin(place, self._owner)
