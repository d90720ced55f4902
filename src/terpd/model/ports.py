"""
The seams: what the control plane needs of a node and of a store, and nothing about how they do it.

Implementations raise only errors of `terpd.model.errors`. Every act may be repeated.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from terpd.model.guest import ExecEvent, ExecRequest, FileInfo, GuestStats
from terpd.model.ids import ExecId, KeyId, SandboxId, TenantId
from terpd.model.sandbox import EndReason, Sandbox, Size, Status
from terpd.model.template import TemplateInfo

# ---- node ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a node needs to start a machine. `env` reaches guest memory and nothing else."""

    sandbox_id: SandboxId
    template: str
    size: Size
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """Guest memory in MiB and machines: used and the cap that admission enforces; warm machines that wait for use."""

    memory_used_mib: int
    memory_cap_mib: int
    machines_used: int
    machines_cap: int
    machines_warm: int = 0


class Node(Protocol):
    """One host that runs machines. A machine has the id of its sandbox."""

    @property
    def node_id(self) -> str: ...

    async def start_machine(self, spec: MachineSpec) -> None:
        """
        Start a machine from its template's snapshot, or claim a warm one. On return it is awake and answers.

        Raises:
            TemplateNotFound: No such template is built here.
            CapacityUnavailable: It does not fit. Nothing was started.
            GuestFault, DeadlineExceeded: It did not come up. Nothing is left behind.
            AlreadyExists: A machine of that id exists.
            StateConflict: stop_machine was called meanwhile. Nothing is left behind.
            Unavailable: The node is stopping, or its template cannot be prepared. Nothing is left behind.
        """

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        """
        End the machine and remove all that was its own: process, cgroup, files. No machine: nothing to do.

        One that is starting is ended too: its `start_machine` then raises StateConflict.

        Raises:
            Unavailable: It has not ended yet; it will, and repeating is safe.
        """

    async def list_machines(self) -> Sequence[SandboxId]:
        """Machines that run and are awake now, adopted ones included."""

    def exits(self) -> AsyncIterator[SandboxId]:
        """Yield each machine that ended without stop_machine, after its remains were removed. One consumer."""

    async def templates(self) -> Sequence[TemplateInfo]: ...

    async def capacity(self) -> NodeCapacity: ...

    # A machine that is not here raises StateConflict in all calls below; a guest that is lost, GuestFault.

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
            PlanLimit: The tenant has *max_live* sandboxes that are not final; checked in the same transaction.
            AlreadyExists: The idempotency key was recorded meanwhile. Nothing was recorded.
        """

    async def forget_sandbox(self, sandbox_id: SandboxId) -> None:
        """Remove a STARTING sandbox for which nothing was started, and its idempotency key. Else nothing to do."""

    async def get_sandbox(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        """Raises SandboxNotFound, also for another tenant's."""

    async def list_sandboxes(self, tenant: TenantId, where: SandboxFilter) -> Sequence[Sandbox]:
        """Newest first."""

    async def set_status(
        self,
        sandbox_id: SandboxId,
        status: Status,
        *,
        at: dt.datetime,
        reason: EndReason | None = None,
        expires_at: dt.datetime | None = None,
        expired_by: dt.datetime | None = None,
    ) -> Sandbox | None:
        """
        Move to *status* if the transition table allows it from what is recorded now, atomically.

        Returns the sandbox as it is after; None when the transition was not allowed (somebody was faster).
        `expires_at` restarts the lease. `expired_by` adds the condition that the lease ended at or before it,
        so that a renewal in the last moment wins. A start that failed (START_FAILED) frees its idempotency key.
        """

    async def set_lease(self, tenant: TenantId, sandbox_id: SandboxId, expires_at: dt.datetime) -> Sandbox:
        """Raises SandboxNotFound; StateConflict unless RUNNING."""

    async def live_sandboxes(self, node_id: str) -> Sequence[Sandbox]:
        """All tenants' sandboxes on this node that are not final."""

    async def expired_sandboxes(self, node_id: str, now: dt.datetime) -> Sequence[Sandbox]:
        """Those that are RUNNING and whose lease ended at or before *now*."""

    async def next_expiry(self, node_id: str) -> dt.datetime | None:
        """When the next lease of a RUNNING sandbox on this node ends; None when none runs."""

    async def count_live(self, tenant: TenantId) -> int: ...

    async def add_key(self, key: ApiKey) -> None: ...

    async def find_key(self, digest: bytes) -> ApiKey | None: ...

    async def list_keys(self) -> Sequence[ApiKey]: ...

    async def revoke_key(self, key_id: KeyId, at: dt.datetime) -> ApiKey:
        """Idempotent. Raises NotFound."""

    async def find_idempotent(self, tenant: TenantId, key: str) -> tuple[bytes, SandboxId] | None:
        """The request digest and the sandbox recorded under an Idempotency-Key, or None."""

    async def ping(self) -> None:
        """Raises Unavailable when the store does not answer."""
