"""Undoing after a failure, which may fail as well."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

_log = structlog.get_logger(__name__)


async def undo(error: Exception, work: Awaitable[object]) -> None:
    """Await *work*; if it fails too, the first error is still the one to tell, and the next sweep tidies up."""
    try:
        await work
    except Exception as second:  # noqa: BLE001 - must not replace the first
        error.add_note(f"undoing it failed as well: {second}")
        _log.warning("undo_failed", error=type(second).__name__, exc_info=second)
