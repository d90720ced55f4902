"""What goes to terpd: records in batches, and acknowledgements after the records of what they acknowledge."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any

from terpd.egress.gateway import wire
from terpd.model.network import EgressRecord

_MAX_RECORDS = 20_000  # some 10 MB; what terpd is behind by at most
_BATCH = 50  # of at most some 900 bytes each: a message is 64 KiB at most
_DELAY_S = 0.05  # records of this time go together


class Outbox:
    """Never blocks: if terpd does not read, the oldest records are dropped, and their number is told."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._records: deque[EgressRecord] = deque()
        self._acks: deque[Mapping[str, Any]] = deque()
        self._dropped = 0
        self._waiting = False  # for the socket to take more
        self._timer: asyncio.TimerHandle | None = None

    def record(self, record: EgressRecord) -> None:
        if len(self._records) >= _MAX_RECORDS:
            self._records.popleft()
            self._dropped += 1
        self._records.append(record)
        if self._timer is None and not self._waiting:
            self._timer = self._loop.call_later(_DELAY_S, self._send)

    def acknowledge(self, ack: Mapping[str, Any]) -> None:
        self._acks.append(ack)
        self._send()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            return
        try:
            while self._records:
                batch = [self._records[at] for at in range(min(_BATCH, len(self._records)))]
                wire.send(self._control, {"records": [wire.from_record(r) for r in batch], "dropped": self._dropped})
                self._dropped = 0
                for _ in batch:
                    self._records.popleft()
            while self._acks:
                wire.send(self._control, self._acks[0])
                self._acks.popleft()
        except BlockingIOError:
            self._waiting = True
            self._loop.add_writer(self._control.fileno(), self._go_on)
        except OSError:  # terpd is gone, and so are we as soon as its end is read; or no descriptor is left
            self._dropped += len(self._records)
            self._records.clear()

    def _go_on(self) -> None:
        with contextlib.suppress(OSError):
            self._loop.remove_writer(self._control.fileno())
        self._waiting = False
        self._send()
