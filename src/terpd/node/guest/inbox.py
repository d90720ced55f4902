"""
What a call has received and nobody has taken yet, in memory that a guest cannot inflate.

Credit bounds the bytes of output under way, but a guest may send them one at a time, from two streams in turn.
So output is not kept as messages: bytes lie in one buffer, beside an array of run lengths. Output that arrived in
pieces is handed out in larger ones.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import NamedTuple

from terpd.node.guest.agent_pb2 import Reply

CHUNK_BYTES = 65_536
_COMPACT_RUNS = 4096


class Chunk(NamedTuple):
    """Bytes of one stream: 0 is stdout or a file, 1 is stderr."""

    source: int
    data: bytes


class Runs:
    """Bytes of two streams in order of arrival: 1 byte and at most 4 more for each byte held."""

    def __init__(self, source: int) -> None:
        self._data = bytearray()
        self._lengths = array("I", [0])  # runs of the one and the other stream in turn
        self._first = 0
        self._source = source  # of the run at _first

    def append(self, source: int, data: bytes) -> None:
        last = self._source ^ ((len(self._lengths) - 1 - self._first) & 1)
        if source == last:
            self._lengths[-1] += len(data)
        else:
            self._lengths.append(len(data))
        self._data += data

    def take(self) -> Chunk | None:
        """Remove up to 64 KiB of the oldest run; None when nothing is left."""
        if not self._data:
            return None
        if self._lengths[self._first] == 0:
            self._first += 1
            self._source ^= 1
            if self._first >= _COMPACT_RUNS:
                del self._lengths[: self._first]
                self._first = 0
        size = min(self._lengths[self._first], CHUNK_BYTES)
        data = bytes(self._data[:size])
        del self._data[:size]
        self._lengths[self._first] -= size
        return Chunk(self._source, data)


class Inbox:
    """Replies and output in the order they came."""

    def __init__(self) -> None:
        self._items: deque[Reply | Runs] = deque()

    def add(self, reply: Reply) -> None:
        self._items.append(reply)

    def add_output(self, source: int, data: bytes) -> None:
        last = self._items[-1] if self._items else None
        if not isinstance(last, Runs):
            last = Runs(source)
            self._items.append(last)
        last.append(source, data)

    def take(self) -> Reply | Chunk | None:
        """Remove the oldest reply or piece of output; None when there is nothing."""
        while self._items:
            first = self._items[0]
            if isinstance(first, Reply):
                self._items.popleft()
                return first
            chunk = first.take()
            if chunk is not None:
                return chunk
            self._items.popleft()
        return None

    def clear(self) -> None:
        self._items.clear()
