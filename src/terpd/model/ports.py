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

from terpd.model.code import CodeContext, CodeEvent, CodeRequest, Language
from terpd.model.guest import (
    CommandInfo,
    ExecEvent,
    ExecRequest,
    Extracted,
    FileEvent,
    FileInfo,
    GuestStats,
    LogPage,
    OpenFile,
    PtySize,
)
from terpd.model.ids import ExecId, KeyId, SandboxId, StateId, TenantId, VolumeId, WebhookId
from terpd.model.network import EgressFilter, EgressRecord, NetworkSpec, Traffic
from terpd.model.sandbox import EndReason, Network, Sandbox, Size, Status
from terpd.model.snapshot import Receipt, SavedState, Snapshot
from terpd.model.template import TemplateInfo
from terpd.model.usage import LiveUsage, MachineTotal, Usage
from terpd.model.volume import Volume, VolumeRef, VolumeStatus
from terpd.model.webhook import Delivery, Event, Webhook

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
        volume: Mounted at /persist; its disk is made when there is none yet, fetched when it was checkpointed. With
            *state* it is the one that the saved machine had.
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
    volume: VolumeRef | None = field(default=None, repr=False)


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

    async def snapshot_machine(
        self, sandbox_id: SandboxId, *, key: bytes, into: StateRef, withhold_secrets: bool
    ) -> SavedState:
        """
        As `pause_machine`, but the machine runs on as soon as what changed is copied, and is AWAKE on return.

        Args:
            withhold_secrets: What `change_env` set is taken out of the guest agent's memory meanwhile and is not in the
                snapshot. Programs that were started with it have their copies.

        Raises:
            SecretsInUse: With *withhold_secrets*: a command runs that was given secrets. Nothing was done.
        """

    async def checkpoint_volume(self, volume: VolumeRef) -> None:
        """
        Bring a volume that no machine holds to the artifact store and remove it here; a start fetches it again.

        Idempotent. Raises StateConflict (a machine holds it), StorageFull, Unavailable: it is here as before.
        """

    async def remove_volume(self, volume_id: VolumeId) -> None:
        """
        Remove a volume, here and in the artifact store, once its machine has ended. Idempotent.

        Raises:
            Unavailable: Its machine has not ended, or the artifact store is away.
        """

    async def collect_volumes(self, keep: Collection[VolumeId]) -> None:
        """
        Remove volumes that are not in *keep* and that no machine holds, as `remove_volume`. Idempotent.

        To be called when no volume is being made. Raises Unavailable.
        """

    def live_usage(self, sandbox_id: SandboxId) -> LiveUsage | None:
        """The last minute of its machine; None when it has none that is awake."""

    def usage_totals(self) -> Collection[MachineTotal]:
        """Of each machine that was handed out, and of each that ended since it was asked last."""

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

    async def list_commands(self, sandbox_id: SandboxId) -> Sequence[CommandInfo]:
        """Background commands and terminals, running or exited, oldest first; 256 at most."""

    async def read_log(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int, limit: int) -> LogPage:
        """
        Read a background command's log from *offset*, or from where it begins now if that is later.

        *limit* is 1 to `MAX_LOG_READ_BYTES`. Raises ExecNotFound. To follow it, `attach`.
        """

    async def send_input(
        self, sandbox_id: SandboxId, exec_id: ExecId, data: bytes, *, offset: int | None = None, close: bool = False
    ) -> int:
        """
        Type *data* (`MAX_INPUT_BYTES` at most) into a terminal, or write it to a command's stdin.

        Args:
            offset: Counts what was accepted before: bytes that were are skipped, so that repeating types nothing twice.
                None: append.

        Returns what was accepted from the start. Raises ExecNotFound; LimitExceeded: the program does not read;
        InvalidRequest: *offset* is beyond what was accepted, or the command takes no input.
        """

    async def resize_pty(self, sandbox_id: SandboxId, exec_id: ExecId, size: PtySize) -> None:
        """Raises ExecNotFound; InvalidRequest: it is no terminal."""

    async def change_env(self, sandbox_id: SandboxId, to_set: Mapping[str, str], to_unset: Collection[str]) -> None:
        """Set and unset variables of commands to come, all or nothing. Raises InvalidRequest, LimitExceeded."""

    async def env_names(self, sandbox_id: SandboxId) -> Sequence[str]:
        """Those that `change_env` set, sorted. There is no way to read values back."""

    def run_code(self, sandbox_id: SandboxId, request: CodeRequest) -> AsyncIterator[CodeEvent]:
        """
        Run code in a kernel: any text, results and one error, then one CodeDone.

        Closing the iterator early interrupts the code. Runs of one context wait for each other.

        Raises:
            InterpreterUnavailable: The template has no such kernel.
            ContextNotFound.
            StateConflict: It was paused meanwhile; the code goes on when it is resumed, and what it shows is lost.
        """

    async def list_code_contexts(self, sandbox_id: SandboxId) -> Sequence[CodeContext]: ...

    async def create_code_context(self, sandbox_id: SandboxId, language: Language, cwd: str) -> CodeContext:
        """Raises InterpreterUnavailable; LimitExceeded: `MAX_CONTEXTS`; InvalidRequest: no such directory."""

    async def restart_code_context(self, sandbox_id: SandboxId, context_id: str) -> CodeContext:
        """It keeps its id and loses its namespace. Raises ContextNotFound."""

    async def remove_code_context(self, sandbox_id: SandboxId, context_id: str) -> None:
        """End its kernel. Raises ContextNotFound."""

    def watch_files(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> AsyncIterator[FileEvent]:
        """Tell what changes, READY first, until closed. Raises FileNotFound; LimitExceeded: too many directories."""

    def read_archive(self, sandbox_id: SandboxId, path: str) -> AsyncIterator[bytes]:
        """Yield a directory as a tar stream in chunks of at most 64 KiB. Raises FileNotFound, NotPermitted."""

    async def write_archive(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes]) -> Extracted:
        """
        Make what a tar stream holds below the directory *path*. What was made stays when it fails.

        Raises:
            InvalidRequest: It is no tar stream, or a name in it leads out of *path*.
            NotPermitted, StorageFull.
        """

    def read_file(self, sandbox_id: SandboxId, path: str, *, limit: int | None = None) -> AsyncIterator[bytes]:
        """
        Yield the file in chunks of at most 64 KiB, *limit* bytes at most.

        Raises:
            FileNotFound, NotPermitted.
            InvalidRequest: The path is a directory or no regular file.
        """

    async def open_file(
        self, sandbox_id: SandboxId, path: str, *, offset: int = 0, limit: int | None = None
    ) -> OpenFile:
        """
        As `read_file`, from *offset* on, and say what the file is. It is read as it is now, whatever takes its name.

        During `snapshot_machine` reading waits, and goes on unless the file was changed: Unavailable then.
        """

    async def write_file(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        """Write atomically (rename at the end), parents created. Returns the size. Raises NotPermitted, TooLarge."""

    async def list_files(self, sandbox_id: SandboxId, path: str) -> Sequence[FileInfo]: ...

    async def stat_file(self, sandbox_id: SandboxId, path: str) -> FileInfo | None: ...

    async def make_directory(self, sandbox_id: SandboxId, path: str, *, parents: bool) -> None: ...

    async def move_file(self, sandbox_id: SandboxId, source: str, destination: str) -> None: ...

    async def remove_file(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> None: ...

    async def stats(self, sandbox_id: SandboxId) -> GuestStats: ...


# ---- courier -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Posted:
    """
    What came of a request: the status of its answer, or the reason why there is none, in the words of the user.

    What was answered besides is not kept: whoever names an address must not read by us what is there.
    """

    status: int | None = None
    error: str | None = None


class Courier(Protocol):
    """Posts to addresses that tenants name, and nowhere that is not public."""

    async def check(self, url: str) -> None:
        """
        Raises:
            InvalidRequest: It is no address that can be posted to, or leads to no public host as far as is known now.
        """

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Posted:
        """Post JSON, once, without following redirects. Takes 10 s at most; what goes wrong is in the answer."""


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
            VolumeInUse, VolumeNotFound, StateConflict: Its volume cannot be attached.
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

    # Volumes. Changes of a volume's holder are part of its sandbox's own transactions: `add_sandbox` with a `volume_id`
    # attaches, and whatever makes a sandbox final, or forgets it, detaches.

    async def add_volume(self, volume: Volume, *, max_volumes: int) -> None:
        """
        Raises:
            AlreadyExists: The tenant has one of that name.
            PlanLimit: The tenant has *max_volumes*; checked in the same transaction.
        """

    async def get_volume(self, tenant: TenantId, name_or_id: str) -> Volume:
        """Raises VolumeNotFound, also for another tenant's."""

    async def list_volumes(self, tenant: TenantId) -> Sequence[Volume]:
        """Newest first; none that is DELETING."""

    async def set_volume_status(
        self,
        volume_id: VolumeId,
        status: VolumeStatus,
        *,
        expected: VolumeStatus,
        at: dt.datetime,
        region: str | None = None,
        expired_by: dt.datetime | None = None,
        event: Event | None = None,
    ) -> Volume | None:
        """
        Move from *expected* to *status* and tell of *event*; None when it is in another. DELETING frees its name and
        destroys its key, with a Receipt, in the same transaction. *region* with STORED. *expired_by* is a condition:
        its lifetime ended at or before it, so that one that is extended in the last moment stays.
        """

    async def set_volume_lifetime(
        self,
        tenant: TenantId,
        volume_id: VolumeId,
        *,
        days: int | None,
        hours: int | None,
        expires_at: dt.datetime | None,
    ) -> Volume:
        """Raises VolumeNotFound."""

    async def forget_volume(self, volume_id: VolumeId) -> None:
        """Remove the record of one that is DELETING, once nothing is left of it."""

    async def volumes_on_node(self, node_id: str) -> Sequence[Volume]:
        """All tenants', those that no machine ran with yet included."""

    # Webhooks. Events of a sandbox are written by the transaction that changes its status, one delivery for each active
    # webhook of its tenant that asks for them.

    async def add_webhook(self, webhook: Webhook, *, max_webhooks: int) -> None:
        """Raises LimitExceeded."""

    async def list_webhooks(self, tenant: TenantId) -> Sequence[Webhook]:
        """Newest first."""

    async def enable_webhook(self, tenant: TenantId, webhook_id: WebhookId) -> Webhook:
        """Active, without failures. Raises WebhookNotFound."""

    async def delete_webhook(self, tenant: TenantId, webhook_id: WebhookId) -> bool:
        """With its deliveries. Returns whether there was one."""

    async def list_deliveries(self, tenant: TenantId, webhook_id: WebhookId, *, limit: int) -> Sequence[Delivery]:
        """Newest first. Raises WebhookNotFound."""

    async def add_event(self, event: Event) -> None:
        """For what is no change of a sandbox."""

    async def due_deliveries(self, now: dt.datetime, *, of_one: int, limit: int) -> Sequence[tuple[Delivery, Webhook]]:
        """All tenants' pending ones whose next try is due, of active webhooks, oldest first; *of_one* each at most."""

    async def count_pending_deliveries(self) -> int:
        """All tenants'."""

    async def record_delivery(self, delivery: Delivery, *, max_failures: int) -> bool:
        """
        Record a try. DELIVERED sets its webhook's failures to 0; FAILED adds one, and *max_failures* switch it off:
        what is pending for it then fails, too. Returns whether this switched it off. Deleted meanwhile: nothing to do.
        """

    async def prune_deliveries(self, before: dt.datetime, *, keep: int, limit: int) -> int:
        """
        Remove at most *limit* finished ones, those older than *before* and those of a webhook beyond the *keep* newest.
        Returns how many.
        """

    # Usage.

    async def add_usage(self, totals: Collection[MachineTotal], *, at: dt.datetime) -> None:
        """
        Record what machines have used so far. Idempotent: a machine's total replaces what was known of that machine, if
        it is more, and what its sandbox's former machines used stays. The difference counts for the day of *at*.
        Sandboxes that are not on record are passed over.
        """

    async def usage(self, tenant: TenantId, sandbox_id: SandboxId) -> Usage:
        """Raises SandboxNotFound."""

    async def tenant_usage(
        self, tenant: TenantId, *, since: dt.date, until: dt.date
    ) -> Sequence[tuple[dt.date, Usage]]:
        """By day (UTC), oldest first, days without use left out; both ends included."""

    async def ping(self) -> None:
        """Raises Unavailable when the store does not answer."""
