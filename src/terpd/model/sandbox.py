"""
The sandbox: what the user has, and the states it goes through.

    STARTING ──► RUNNING ──► TERMINATED
        │           │
        └───────────┴──────► FAILED

Intent is recorded before an act and the outcome after it. STARTING therefore means "a machine may or may not
exist": after a crash it is reaped and the sandbox becomes FAILED. RUNNING means the machine has confirmed its
wake-up. TERMINATED and FAILED are final, and whoever finds a machine for such a sandbox reaps it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.errors import StateConflict
from terpd.model.ids import SandboxId, TenantId


class Status(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    TERMINATED = "terminated"
    FAILED = "failed"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.STARTING: frozenset({Status.RUNNING, Status.TERMINATED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.TERMINATED, Status.FAILED}),
    Status.TERMINATED: frozenset(),
    Status.FAILED: frozenset(),
}

FINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


class EndReason(StrEnum):
    """Why a sandbox is no more."""

    USER = "user"  # terminated by its owner
    LEASE = "lease"  # its timeout ran out
    START_FAILED = "start_failed"  # the machine never confirmed its wake-up
    MACHINE_LOST = "machine_lost"  # the machine ended by itself, or was gone after a restart
    SHUTDOWN = "shutdown"  # the server was stopped in --dev


class Network(StrEnum):
    OFF = "off"
    RESTRICTED = "restricted"
    OPEN = "open"


class OnTimeout(StrEnum):
    KILL = "kill"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Size:
    """What a sandbox gets of the host: *vcpus* virtual processors and *memory_mib* MiB of guest memory."""

    name: str
    vcpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """
    One sandbox as recorded. All times are aware UTC.

    `expires_at` is the lease's end; it stays readable after the end. `env` is not here: it lives in guest memory only.
    """

    id: SandboxId
    tenant: TenantId
    status: Status
    template: str
    size: Size
    network: Network
    region: str
    node_id: str
    created_at: dt.datetime
    expires_at: dt.datetime
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    end_reason: EndReason | None = None


def check_transition(sandbox: Sandbox, to: Status) -> None:
    """
    Raises:
        StateConflict: A sandbox in this state cannot become *to*.
    """
    if to not in TRANSITIONS[sandbox.status]:
        raise StateConflict(f"Sandbox {sandbox.id} is {sandbox.status}; it cannot become {to}")


def require_running(sandbox: Sandbox) -> None:
    """
    Raises:
        StateConflict: The sandbox does not run; the message says what it is and why.
    """
    if sandbox.status is Status.RUNNING:
        return
    why = f" ({sandbox.end_reason})" if sandbox.end_reason else ""
    todo = "create a new one" if sandbox.status in FINAL else "wait until it is running"
    raise StateConflict(
        f"Sandbox {sandbox.id} is {sandbox.status}{why}; {todo}", fields={"status": str(sandbox.status)}
    )
