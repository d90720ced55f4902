"""
Host uids for machines: each live machine has its own, so that one that broke out owns nothing of another's.

The range is configured. The default lies above what Debian's adduser and login give to people, to system users and
as subordinate ids (100000 and up, 65536 a user: the first ten people), and below 2^31, where some tools stop.
"""

from __future__ import annotations

import os

from terpd.model.errors import CapacityUnavailable

DEFAULT_FIRST = 800_000
DEFAULT_COUNT = 65_536  # 800000-865535


class UidRange:
    """
    The uids from *first*, *count* of them. What a machine took stands in its record; `reserve` it after a restart.

    A daemon that is not root has one uid only: its own, for all machines. They are then apart by namespaces alone.
    """

    def __init__(self, first: int = DEFAULT_FIRST, count: int = DEFAULT_COUNT) -> None:
        self.first = first
        self.count = count
        self._shared = os.geteuid() or None
        self._taken: set[int] = set()
        self._next = 0

    def take(self) -> int:
        """
        Return a uid that no live machine has. Those given back last come last.

        Raises:
            CapacityUnavailable: All are taken.
        """
        if self._shared is not None:
            return self._shared
        for offset in range(self.count):
            slot = (self._next + offset) % self.count
            uid = self.first + slot
            if uid not in self._taken:
                self._taken.add(uid)
                self._next = slot + 1
                return uid
        raise CapacityUnavailable(
            "All machines that this node can run are in use; try again in a moment",
            context={"uids": f"{self.first}-{self.first + self.count - 1}"},
        )

    def reserve(self, uid: int) -> None:
        """Take the uid of an adopted machine. One outside the range (it was changed since) does no harm."""
        self._taken.add(uid)

    def give_back(self, uid: int) -> None:
        """Call when the machine's last process is gone. Idempotent."""
        self._taken.discard(uid)
