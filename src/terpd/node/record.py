"""
What a machine's directory says of it: enough for a restarted daemon to adopt or reap it.

    machines/<machine id>/record.json   written before the monitor starts (no pid), again when it runs, and when claimed
                          disk.qcow2    its writes
                          qmp.sock, agent.sock

Written by rename, so it is never torn by the death of this process. It is not synced: after a power loss no machine
is left that it could describe.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from terpd.model.ids import SandboxId
from terpd.node.jail.process import Process

_NAME = "record.json"


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """
    Attributes:
        sandbox_id: None while the machine waits in a pool.
        pid, started: The monitor's pid and start time in clock ticks since boot (proc(5), field 22): together they
            name one process for good. None before it runs.
    """

    machine_id: str
    sandbox_id: SandboxId | None
    template: str
    size: str
    memory_mib: int
    uid: int
    pid: int | None = None
    started: int | None = None

    @property
    def process(self) -> Process | None:
        if self.pid is None or self.started is None:
            return None
        return Process(self.pid, self.started)

    def with_process(self, process: Process) -> MachineRecord:
        return replace(self, pid=process.pid, started=process.started)

    def claimed_by(self, sandbox_id: SandboxId) -> MachineRecord:
        return replace(self, sandbox_id=sandbox_id)

    def write(self, directory: Path) -> None:
        temporary = directory / f".{_NAME}"
        with temporary.open("w") as file:
            json.dump(asdict(self), file)
        os.replace(temporary, directory / _NAME)  # noqa: PTH105  a rename is the point

    @classmethod
    def find(cls, directory: Path) -> MachineRecord | None:
        """Return the record; None when the directory has none that can be read: then it is rubbish to remove."""
        try:
            return cls(**json.loads((directory / _NAME).read_text()))
        except (OSError, ValueError, TypeError):
            return None
