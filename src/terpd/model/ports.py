"""
The seams: what the control plane needs of a node and of a store, and nothing about how they do it.

Implementations raise only errors of `terpd.model.errors`. Every act may be repeated.
"""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from terpd.model.guest import ExecEvent, ExecRequest, FileInfo, GuestStats
from terpd.model.ids import ExecId, KeyId, SandboxId, StateId, TenantId
from terpd.model.network import EgressFilter, EgressRecord, NetworkSpec, Traffic
from terpd.model.sandbox import EndReason, Network, Sandbox, Size, Status
from terpd.model.snapshot import Receipt, SavedState, Snapshot
from terpd.model.template import TemplateInfo

# ---- node ----------------------------------------------------------------------------------------


KEY_BYTES = 32  # of every data key


@dataclass(frozen=True, slots=True)
class StateRef:
    """A saved state, and the data key that opens it or is to encrypt it: `KEY_BYTES` bytes, kept in memory only."""

    id: StateId
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """
    What a node needs to start a machine.

    Attributes:
        env: Reaches guest memory and nothing else. Without *state* it is the sandbox's whole environment; with one it
            is set over what the guest has.
        key: The sandbox's data key: wraps the key of the machine's disk.
        state: Continue from it; template and size are then those it was made with.
        network: None for a machine without network device.
        fork: With *state*: the machine becomes another than the one that was saved (names, machine id, a signal to
            programs that keep random state of their own). False: it goes on as the same.
    """

    sandbox_id: SandboxId
    template: str
    size: Size
    key: bytes = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    state: StateRef | None = None
    fork: bool = False
    network: NetworkSpec | None = field(default=None, repr=False)


class MachinePhase(StrEnum):
    """
    HELD: stopped by `pause_machine`, or by a capture that died with the daemon. Only `continue_machine` lets it run,
    and only `stop_machine` ends it.
    """

    AWAKE = "awake"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """
    Guest memory in MiB and machines: used and the cap that admission enforces; warm machines that wait for use.

    `disk_free_bytes` is the room for saved states on the node's disk, above the operator's reserve.
    """

    memory_used_mib: int
    memory_cap_mib: int
    machines_used: int
    machines_cap: int
    machines_warm: int = 0
    disk_free_bytes: int | None = None


class Node(Protocol):
    """One host that runs machines. A machine has the id of its sandbox."""

    @property
    def node_id(self) -> str: ...

    async def start_machine(self, spec: MachineSpec) -> None:
        """
        Start a machine from its template's snapshot, claim a warm one, or continue from a saved state.

        On return it is awake and answers. The saved state is not used up.

        Raises:
            TemplateNotFound: No such template is built here.
            CapacityUnavailable: It does not fit. Nothing was started.
            StateMismatch, StateDamaged: The saved state cannot be used here; says why. Nothing was started.
            GuestFault, DeadlineExceeded: It did not come up. Nothing is left behind.
            AlreadyExists: A machine of that id exists.
            StateConflict: stop_machine was called meanwhile. Nothing is left behind.
            StorageFull, Unavailable: No room on the disk, the node is stopping, the template cannot be prepared or the
                artifact store is away. Nothing is left behind.
        """

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        """
        End the machine and remove all that was its own: process, cgroup, files. No machine: nothing to do.

        One that is starting is ended too: its `start_machine` then raises StateConflict. One that is being captured
        is ended too: that call then raises.

        Raises:
            Unavailable: It has not ended yet; it will, and repeating is safe.
        """

    async def pause_machine(self, sandbox_id: SandboxId, *, key: bytes, into: StateRef) -> SavedState:
        """
        Freeze the guest, stop the machine and save all of it. On return the state is durable and the machine HELD.

        Args:
            key: The sandbox's data key, as given at its start.
            into: The new state's id, and the key it is to be encrypted with.

        Raises:
            StateConflict: It is not here, or a capture is under way.
            StorageFull, Unavailable, GuestFault, DeadlineExceeded: It was not saved. Nothing of the state is left, and
                the machine runs on as before; where it cannot, it is ended and reported by `exits`.
        """

    async def continue_machine(self, sandbox_id: SandboxId) -> None:
        """
        Let a HELD machine run on, with new entropy and the clock of now. AWAKE: nothing to do.

        Raises:
            StateConflict: It is not here.
            GuestFault, DeadlineExceeded: It did not wake; it is ended and reported by `exits`.
        """

    async def snapshot_machine(self, sandbox_id: SandboxId, *, key: bytes, into: StateRef) -> SavedState:
        """As `pause_machine`, but the machine runs on as soon as what changed is copied, and is AWAKE on return."""

    async def set_network(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        """
        Give a machine with a network device this policy and these credentials from now on.

        Connections under way that are not allowed any more are closed. A machine that was adopted reaches nothing
        until this is called. After a restart of the server its credentials are lost: what needs them is blocked.

        Raises:
            StateConflict: It is not here, or has no network device.
        """

    def egress(self) -> AsyncIterator[Sequence[EgressRecord]]:
        """
        Yield what connections came to when they are over, in batches. One consumer; bounded, oldest dropped.

        It ends when the node is closed and all was taken.
        """

    async def dial(self, sandbox_id: SandboxId, port: int) -> socket.socket:
        """
        Connect to a TCP port of the guest, for a preview. A connected, non-blocking socket, the caller's to close.

        Raises:
            StateConflict: The machine is not here, is HELD or has no network device.
            Unavailable: Nobody listens there, or the guest does not answer.
        """

    async def has_state(self, state_id: StateId) -> bool:
        """Whether that state was saved whole. It says nothing of what became of it since: starting from it does."""

    async def collect(self, keep: Collection[StateId]) -> None:
        """
        Remove all saved states but *keep* and those being saved now, and what only those needed. Idempotent.

        Raises:
            Unavailable: The artifact store is away. Nothing that is needed was removed.
        """

    async def list_machines(self) -> Mapping[SandboxId, MachinePhase]:
        """Machines that were handed out, adopted ones included. One that is starting is not listed."""

    def exits(self) -> AsyncIterator[SandboxId]:
        """Yield each machine that ended without stop_machine, after its remains were removed. One consumer."""

    async def templates(self) -> Sequence[TemplateInfo]: ...

    async def capacity(self) -> NodeCapacity: ...

    # A machine that is not here or HELD raises StateConflict in all calls below; a guest that is lost, GuestFault.
    # During `snapshot_machine` they wait; commands under way go on where they were. `pause_machine` ends them with
    # StateConflict, and their commands go on, and can be attached to, when the machine does.

    def exec(self, sandbox_id: SandboxId, request: ExecRequest) -> AsyncIterator[ExecEvent]:
        """
        Run a command: one ExecStarted, any ExecOutput, one ExecExited.

        Closing the iterator early detaches: the command runs on until its own timeout. The consumer's pace
        holds the command back.

        Raises:
            InvalidRequest: The cwd does not exist, or command, env or cwd are out of bounds.
            LimitExceeded: The guest has no memory or processes left for it.
        """

    def attach(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> AsyncIterator[ExecEvent]:
        """As `exec`, for a command already started. Raises ExecNotFound."""

    async def signal(self, sandbox_id: SandboxId, exec_id: ExecId, signal: int) -> None: ...

    def read_file(self, sandbox_id: SandboxId, path: str, *, limit: int | None = None) -> AsyncIterator[bytes]:
        """
        Yield the file in chunks of at most 64 KiB, *limit* bytes at most.

        Raises:
            FileNotFound, NotPermitted.
            InvalidRequest: The path is a directory or no regular file.
        """

    async def write_file(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        """Write atomically (rename at the end), parents created. Returns the size. Raises NotPermitted, TooLarge."""

    async def list_files(self, sandbox_id: SandboxId, path: str) -> Sequence[FileInfo]: ...

    async def stat_file(self, sandbox_id: SandboxId, path: str) -> FileInfo | None: ...

    async def make_directory(self, sandbox_id: SandboxId, path: str, *, parents: bool) -> None: ...

    async def move_file(self, sandbox_id: SandboxId, source: str, destination: str) -> None: ...

    async def remove_file(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> None: ...

    async def stats(self, sandbox_id: SandboxId) -> GuestStats: ...


# ---- store ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApiKey:
    """
    An API key as recorded: `digest` is the SHA-256 of the whole key, `prefix` its first characters, to show.
    """

    id: KeyId
    tenant: TenantId
    name: str
    prefix: str
    digest: bytes
    scopes: frozenset[str]
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """
    What a change of a sandbox's status records besides the status; None leaves it as it is.

    Attributes:
        reason: With TERMINATED or FAILED.
        expires_at: Begins the lease anew.
        expired_by: A condition: the lease (of a PAUSED sandbox, its paused time) ended at or before it, so that a
            renewal in the last moment wins.
        expected: A condition: the status it has now, where the table of transitions allows more than one.
        state_id: With PAUSING.
        max_saved: With PAUSING, a condition: the tenant has fewer sandboxes in `SAVED`.
        max_on_node: With RESUMING, a condition: the tenant has fewer sandboxes in `ON_NODE`.
        stored_bytes, paused_expires_at: With PAUSED.
    """

    reason: EndReason | None = None
    expires_at: dt.datetime | None = None
    expired_by: dt.datetime | None = None
    expected: Status | None = None
    state_id: StateId | None = None
    max_saved: int | None = None
    max_on_node: int | None = None
    stored_bytes: int | None = None
    paused_expires_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class SandboxFilter:
    """All that is given must match; `metadata` key by key. `before` is the last id of the page before."""

    status: Status | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    before: SandboxId | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The Idempotency-Key a client sent with a create, and the SHA-256 of what it asked for. Kept for 24 hours."""

    key: str
    digest: bytes


_NO_CHANGE = Change()


class Store(Protocol):
    """
    What the control plane remembers. Each method is one transaction, durable against the death of this process.
    """

    async def add_sandbox(
        self, sandbox: Sandbox, *, max_live: int | None, idempotency: Idempotency | None = None
    ) -> None:
        """
        Record a new sandbox, and with it the key under which a repeated create finds it.

        Raises:
            PlanLimit: The tenant has *max_live* sandboxes in `ON_NODE`; checked in the same transaction.
            AlreadyExists: The idempotency key was recorded meanwhile. Nothing was recorded.
        """

    async def forget_sandbox(self, sandbox_id: SandboxId) -> None:
        """Remove a STARTING sandbox for which nothing was started, and its idempotency key. Else nothing to do."""

    async def get_sandbox(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        """Raises SandboxNotFound, also for another tenant's."""

    async def list_sandboxes(self, tenant: TenantId, where: SandboxFilter) -> Sequence[Sandbox]:
        """Newest first."""

    async def set_status(
        self, sandbox_id: SandboxId, status: Status, *, at: dt.datetime, change: Change = _NO_CHANGE
    ) -> Sandbox | None:
        """
        Move to *status* if the transition table and the change's conditions allow it from what is recorded now.

        Returns the sandbox as it is after; None when it was not allowed (somebody was faster). Atomically with it:
        RUNNING sets `window_began_at`, except from PAUSING (an undone pause), and clears the saved state's fields; a
        final status clears them too, destroys `sealed_key` and writes its Receipt; a start that failed (START_FAILED)
        frees its idempotency key.

        Raises:
            SnapshotCap: For `max_saved`.
            PlanLimit: For `max_on_node`.
        """

    async def start_all(self, leases: Mapping[SandboxId, dt.datetime], *, at: dt.datetime) -> Sequence[Sandbox] | None:
        """Move all of these from STARTING to RUNNING with these leases, or, if one cannot, none: None then."""

    async def set_lease(
        self, tenant: TenantId, sandbox_id: SandboxId, expires_at: dt.datetime, *, lease_s: int
    ) -> Sandbox:
        """Raises SandboxNotFound; StateConflict unless RUNNING."""

    async def live_sandboxes(self, node_id: str) -> Sequence[Sandbox]:
        """All tenants' sandboxes on this node that are not final."""

    async def expired_sandboxes(self, node_id: str, now: dt.datetime) -> Sequence[Sandbox]:
        """Those that are RUNNING whose lease, or PAUSED whose paused time, ended at or before *now*."""

    async def next_expiry(self, node_id: str) -> dt.datetime | None:
        """When the next of those ends on this node; None when none will."""

    async def count_on_node(self, tenant: TenantId) -> int:
        """The tenant's sandboxes in `ON_NODE`."""

    async def count_saved(self, tenant: TenantId) -> int:
        """The tenant's sandboxes in `SAVED`."""

    async def add_snapshot(self, snapshot: Snapshot, *, max_named: int | None) -> None:
        """
        Record a snapshot in CAPTURING.

        Raises:
            SnapshotCap: The tenant has *max_named* that are not for a fork; checked in the same transaction.
        """

    async def finish_snapshot(self, state_id: StateId, *, at: dt.datetime, saved: SavedState) -> Snapshot | None:
        """CAPTURING to READY; None if it was deleted meanwhile."""

    async def fail_snapshot(self, state_id: StateId, *, at: dt.datetime, error: str) -> None:
        """CAPTURING to FAILED, and its key is destroyed, with a Receipt. Else nothing to do."""

    async def get_snapshot(self, tenant: TenantId, state_id: StateId) -> Snapshot:
        """Raises SnapshotNotFound, also for another tenant's."""

    async def list_snapshots(self, tenant: TenantId) -> Sequence[Snapshot]:
        """Newest first; none that is for a fork."""

    async def count_snapshots(self, tenant: TenantId) -> int:
        """As `list_snapshots` would return."""

    async def delete_snapshot(self, tenant: TenantId, state_id: StateId, *, at: dt.datetime) -> bool:
        """Remove it, destroy its key and write the Receipt. Returns whether there was one."""

    async def snapshots_on_node(self, node_id: str) -> Sequence[Snapshot]:
        """All tenants' snapshots on this node, those for forks included."""

    async def sandbox_of_any_tenant(self, sandbox_id: SandboxId) -> Sandbox:
        """For previews, whose host name is all that a caller has. Raises SandboxNotFound."""

    async def set_network_policy(
        self,
        tenant: TenantId,
        sandbox_id: SandboxId,
        *,
        network: Network,
        allow_domains: Sequence[str] | None,
        report_only: bool,
    ) -> Sandbox:
        """
        Record what holds from now on, or from its next resume. *network* is not `off`.

        Raises:
            SandboxNotFound.
            StateConflict: It has ended or its network is `off`.
        """

    async def add_egress(self, records: Sequence[EgressRecord]) -> None:
        """
        Record connections and add them to their sandboxes' traffic, in one transaction. Known ids are skipped.

        Of each sandbox so many are kept (`MAX_EGRESS_RECORDS`, roughly); the oldest blocked ones make room first.
        """

    async def list_egress(self, tenant: TenantId, sandbox_id: SandboxId, where: EgressFilter) -> Sequence[EgressRecord]:
        """Newest first. Raises SandboxNotFound."""

    async def traffic(self, tenant: TenantId, sandbox_id: SandboxId) -> Traffic:
        """Raises SandboxNotFound."""

    async def prune_egress(self, before: dt.datetime, *, limit: int) -> int:
        """Remove at most *limit* records older than *before*; traffic stays. Returns how many were removed."""

    async def list_receipts(self, tenant: TenantId, *, subject: str | None, limit: int) -> Sequence[Receipt]:
        """Newest first."""

    async def add_key(self, key: ApiKey) -> None: ...

    async def find_key(self, digest: bytes) -> ApiKey | None: ...

    async def list_keys(self) -> Sequence[ApiKey]: ...

    async def revoke_key(self, key_id: KeyId, at: dt.datetime) -> ApiKey:
        """Idempotent. Raises NotFound."""

    async def find_idempotent(self, tenant: TenantId, key: str) -> tuple[bytes, SandboxId] | None:
        """The request digest and the sandbox recorded under an Idempotency-Key, or None."""

    async def ping(self) -> None:
        """Raises Unavailable when the store does not answer."""
