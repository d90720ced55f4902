"""
Who is at work on which sandbox in this process: one at a time, and the sweep leaves those alone.

The store decides who may change a sandbox; this only says, before anything is recorded and after all of it is, that a
use case has not let go of it yet. A terminate claims nothing: it goes ahead of everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from terpd.model.errors import StateConflict
from terpd.model.ids import SandboxId


@dataclass(frozen=True, slots=True)
class _Claim:
    doing: str
    done: asyncio.Event = field(default_factory=asyncio.Event)


class AtWork:
    def __init__(self) -> None:
        self._claims: dict[SandboxId, _Claim] = {}
        self._watchers: list[set[SandboxId]] = []

    @contextlib.contextmanager
    def claim(self, sandbox_id: SandboxId, doing: str) -> Iterator[None]:
        """
        Work on a sandbox within the block. *doing* completes "the sandbox is": "being paused".

        Raises:
            StateConflict: Another use case is at work on it.
        """
        if (other := self._claims.get(sandbox_id)) is not None:
            raise StateConflict(f"Sandbox {sandbox_id} is {other.doing}; try again when that is done")
        claim = self._claims[sandbox_id] = _Claim(doing)
        for seen in self._watchers:
            seen.add(sandbox_id)
        try:
            yield
        finally:
            del self._claims[sandbox_id]
            claim.done.set()

    def done(self, sandbox_id: SandboxId) -> asyncio.Event | None:
        """What is set once who is at work on it has let go; None when nobody is."""
        claim = self._claims.get(sandbox_id)
        return None if claim is None else claim.done

    @contextlib.contextmanager
    def watching(self) -> Iterator[set[SandboxId]]:
        """Give a set that holds, at any time within the block, all on which somebody was at work since its begin."""
        seen = set(self._claims)
        self._watchers.append(seen)
        try:
            yield seen
        finally:
            self._watchers.remove(seen)
