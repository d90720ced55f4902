"""The Range header (RFC 9110, 14.2), as far as a part of a file needs it: one range of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes *start* to *end*, the latter not included; empty when nothing of what was asked for exists."""

    start: int
    end: int


def parse_range(header: str | None, size: int) -> Span | None:
    """What of *size* bytes is asked for; None for all of them, as also for what is malformed or several ranges."""
    found = _ONE.fullmatch((header or "").replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # the last so many
        return Span(max(0, size - int(found[2])), size) if int(found[2]) else Span(0, 0)
    start = int(found[1])
    end = min(size, int(found[2]) + 1) if found[2] else size
    if found[2] and int(found[2]) < start:
        return None
    return Span(start, end) if start < size else Span(0, 0)
