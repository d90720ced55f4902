"""
Saved machines: named snapshots as the user sees them, and what a node says of a machine it has saved.

A saved state is `base template + what changed`: memory pages, device state and frozen disk layers, encrypted with a
data key of its own. Destroying that key destroys the state, wherever copies of it may lie.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.ids import SandboxId, StateId, TenantId
from terpd.model.sandbox import Network, Size


class SnapshotStatus(StrEnum):
    CAPTURING = "capturing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A running sandbox as it was at one moment, from which any number of others start. It outlives its source.

    Attributes:
        name: The user's, or None.
        for_fork: A fork took it for itself: not listed, not counted, and deleted when its children run.
        allow_domains, report_only: The source's; those that start from it have them too, unless they say otherwise.
        stored_bytes: In the artifact store, layers shared with others included.
        stopped_ms: How long the source's processors stood still for it.
    """

    id: StateId
    tenant: TenantId
    status: SnapshotStatus
    name: str | None
    source: SandboxId
    template: str
    size: Size
    network: Network
    region: str
    node_id: str
    created_at: dt.datetime
    for_fork: bool = False
    ready_at: dt.datetime | None = None
    stored_bytes: int | None = None
    stopped_ms: float | None = None
    error: str | None = None
    allow_domains: Sequence[str] | None = None
    report_only: bool = False
    key_id: str | None = None
    sealed_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SavedState:
    """
    What capturing a machine came to.

    Attributes:
        dirty_bytes: Guest memory that differs from the template's.
        stored_bytes: Of everything the state needs besides its template, encrypted.
        stopped_s: How long the guest's processors stood still; for a pause, until everything was read.
    """

    id: StateId
    dirty_bytes: int
    stored_bytes: int
    stopped_s: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    That a data key was destroyed, and with it all that it had encrypted.

    Attributes:
        subject: Id of the sandbox or snapshot.
        what: What could be read with the key only, in words.
        key_id, server_key_id: Of the data key, and of the server's key that had wrapped it.
    """

    tenant: TenantId
    subject: str
    what: str
    at: dt.datetime
    key_id: str
    server_key_id: str
