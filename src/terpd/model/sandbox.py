"""
The sandbox: what the user has, and the states it goes through.

    STARTING ──► RUNNING ◄──► PAUSING ──► PAUSED ◄──► RESUMING
                    ▲                                    │
                    └────────────────────────────────────┘
    any of them ──► TERMINATED, FAILED

Intent is recorded before an act and the outcome after it. STARTING therefore means "a machine may or may not
exist": after a crash it is reaped and the sandbox becomes FAILED. RUNNING means the machine has confirmed its
wake-up. PAUSING means a machine exists and its state may or may not be saved: after a crash the machine runs on, or,
if it is gone, the saved state counts. PAUSED means the state is saved durably and no machine may run. RESUMING means
both may be there: an awake machine is the sandbox's, anything less is reaped and the sandbox is PAUSED as before.
TERMINATED and FAILED are final: their data key is destroyed, and whoever finds a machine for them reaps it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.errors import StateConflict
from terpd.model.ids import SandboxId, StateId, TenantId, VolumeId
from terpd.model.network import Credential


class Status(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    TERMINATED = "terminated"
    FAILED = "failed"


_END = {Status.TERMINATED, Status.FAILED}

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.STARTING: frozenset({Status.RUNNING} | _END),
    Status.RUNNING: frozenset({Status.PAUSING} | _END),
    Status.PAUSING: frozenset({Status.PAUSED, Status.RUNNING} | _END),
    Status.PAUSED: frozenset({Status.RESUMING} | _END),
    Status.RESUMING: frozenset({Status.RUNNING, Status.PAUSED} | _END),
    Status.TERMINATED: frozenset(),
    Status.FAILED: frozenset(),
}

FINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)
LIVE = frozenset(Status) - FINAL
ON_NODE = LIVE - {Status.PAUSED}  # hold memory of a node, and count against how many may be used at once
SAVED = frozenset({Status.PAUSING, Status.PAUSED, Status.RESUMING})  # have a saved state, and count against its cap


class EndReason(StrEnum):
    """Why a sandbox is no more."""

    USER = "user"  # terminated by its owner
    LEASE = "lease"  # its timeout ran out
    PAUSED_TOO_LONG = "paused_too_long"  # its time as a paused sandbox ran out
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

    Attributes:
        lease_s: The lease's length as last set; a resume begins one of the same length.
        window_began_at: When it last began to run: at its start, or at its last resume.
        snapshot: Which named snapshot, or which fork's, it was created from.
        state_id, stored_bytes: Its saved state while it is in `SAVED`, and the state's size once it is PAUSED.
        paused_expires_at: When a PAUSED one is terminated; None for never.
        allow_domains: Replaces the template's default list in `restricted`; None keeps it.
        report_only: See `NetworkPolicy`.
        credentials: Without their values, which are in the server's memory only.
        preview_auth: Previews ask for a token, which is derived from the server's key and stands nowhere.
        volume, volume_id: The volume at /persist, by the name it had then; it is held until the sandbox is final.
        key_id: Names its data key; it stays readable when the key is destroyed.
        sealed_key: The data key, wrapped by the server's key; None once it is destroyed.
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
    lease_s: int = 600
    window_began_at: dt.datetime | None = None
    snapshot: StateId | None = None
    state_id: StateId | None = None
    stored_bytes: int | None = None
    paused_expires_at: dt.datetime | None = None
    allow_domains: Sequence[str] | None = None
    report_only: bool = False
    credentials: Sequence[Credential] = ()
    preview_auth: bool = False
    volume: str | None = None
    volume_id: VolumeId | None = None
    key_id: str | None = None
    sealed_key: bytes | None = field(default=None, repr=False)


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
    todo = "wait until it is running"
    if sandbox.status in FINAL:
        todo = "create a new one"
    elif sandbox.status is Status.PAUSED:
        todo = "resume it first, or create sandboxes with auto_resume"
    raise StateConflict(
        f"Sandbox {sandbox.id} is {sandbox.status}{why}; {todo}", fields={"status": str(sandbox.status)}
    )
