"""
Create a sandbox: check → record STARTING → start the machine → record RUNNING.

Dying after the first record leaves a STARTING row; the next start reaps whatever machine it has and marks it FAILED.
A row whose undoing failed is left to the next sweep in the same way.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import re
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from terpd.control.checks import check_env, check_lease, check_metadata
from terpd.control.clock import Clock
from terpd.control.leases import Leases
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.model.errors import (
    AlreadyExists,
    CapacityUnavailable,
    IdempotencyMismatch,
    InvalidRequest,
    NotOffered,
    SandboxNotFound,
    StateConflict,
    TemplateNotFound,
    Unavailable,
)
from terpd.model.ids import SandboxId, TenantId, new_sandbox_id
from terpd.model.ports import Idempotency, MachineSpec, Node, Store
from terpd.model.sandbox import EndReason, Network, OnTimeout, Sandbox, Status

_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a caller asks for, before it is checked. `env` is secret: it goes to the guest's memory and nowhere else."""

    template: str | None = None
    size: str = "small"
    network: Network = Network.OFF
    timeout_s: int = 600
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    preview_auth: bool = False
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    region: str | None = None
    volume: str | None = None
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedSandbox:
    """A request that was checked, and the sandbox it will be: STARTING, with its id, recorded nowhere yet."""

    sandbox: Sandbox
    timeout_s: int
    env: Mapping[str, str] = field(repr=False)


class CreateSandbox:
    def __init__(self, store: Store, node: Node, policy: Policy, clock: Clock, leases: Leases) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._clock = clock
        self._leases = leases
        self._shielded = Shielded()
        self._started: dict[SandboxId, asyncio.Event] = {}

    def plan(self, tenant: TenantId, request: CreateRequest) -> PlannedSandbox:
        """
        Raises:
            InvalidRequest, NotOffered, TooLarge: The request is out of bounds, or asks for what is not here.
        """
        template = check_offered(request, self._policy)
        check_lease(request.timeout_s, maximum=self._policy.max_timeout_s)
        check_env(request.env)
        check_metadata(request.metadata)
        size = self._policy.sizes.get(request.size)
        if size is None:
            raise InvalidRequest(f"size must be one of {', '.join(self._policy.sizes)}")
        now = self._clock.now()
        sandbox = Sandbox(
            id=new_sandbox_id(),
            tenant=tenant,
            status=Status.STARTING,
            template=template,
            size=size,
            network=request.network,
            region=self._policy.region,
            node_id=self._node.node_id,
            created_at=now,
            expires_at=now + dt.timedelta(seconds=request.timeout_s),
            on_timeout=request.on_timeout,
            auto_resume=request.auto_resume,
            metadata=dict(request.metadata),
        )
        return PlannedSandbox(sandbox, request.timeout_s, request.env)

    async def __call__(self, planned: PlannedSandbox, *, idempotency: Idempotency | None = None) -> Sandbox:
        """
        Return the sandbox in RUNNING. Its lease begins now, not at the request.

        With *idempotency*, a request that was answered before returns that sandbox, in the state it has now.
        If the caller goes away, the create is finished all the same; the sandbox is listed and its lease bounds it.

        Raises:
            TemplateNotFound, PlanLimit, CapacityUnavailable: Nothing was created.
            IdempotencyMismatch: The key was used for something else.
            GuestFault, DeadlineExceeded: The machine did not come up; the sandbox is recorded as FAILED.
            StateConflict: It was terminated while it was starting.
        """
        tenant = planned.sandbox.tenant
        if idempotency is None:
            return await self._shielded.run(self._start(planned, None))
        check_idempotency_key(idempotency.key)
        while True:
            known = await self._store.find_idempotent(tenant, idempotency.key)
            if known is not None and (sandbox := await self._replay(tenant, known, idempotency)) is not None:
                return sandbox
            try:
                return await self._shielded.run(self._start(planned, idempotency))
            except AlreadyExists:  # another request with this key was faster: see what becomes of it
                continue

    def under_way(self) -> Collection[SandboxId]:
        """Sandboxes that are being created now, from before their record to after its last change."""
        return self._started.keys()

    async def drain(self, seconds: float) -> None:
        await self._shielded.drain(seconds)

    async def _start(self, planned: PlannedSandbox, idempotency: Idempotency | None) -> Sandbox:
        sandbox = planned.sandbox
        started = self._started[sandbox.id] = asyncio.Event()
        try:
            await self._store.add_sandbox(sandbox, max_live=self._policy.max_concurrent, idempotency=idempotency)
            try:
                await self._node.start_machine(
                    MachineSpec(sandbox_id=sandbox.id, template=sandbox.template, size=sandbox.size, env=planned.env)
                )
            except (CapacityUnavailable, TemplateNotFound) as error:  # nothing was started: then nothing is recorded
                await _undo(error, self._store.forget_sandbox(sandbox.id))
                raise
            except Exception as error:
                await _undo(error, self._fail(sandbox.id))
                raise
            try:
                return await self._confirm(sandbox, planned.timeout_s)
            except Exception as error:
                await _undo(error, self._fail(sandbox.id))
                raise
        finally:
            started.set()
            del self._started[sandbox.id]

    async def _confirm(self, sandbox: Sandbox, timeout_s: int) -> Sandbox:
        now = self._clock.now()
        running = await self._store.set_status(
            sandbox.id, Status.RUNNING, at=now, expires_at=now + dt.timedelta(seconds=timeout_s)
        )
        if running is None:
            raise StateConflict(f"Sandbox {sandbox.id} ended while it was starting; create a new one")
        self._leases.notice(running.expires_at)
        return running

    async def _fail(self, sandbox_id: SandboxId) -> None:
        await self._node.stop_machine(sandbox_id)
        await self._store.set_status(sandbox_id, Status.FAILED, at=self._clock.now(), reason=EndReason.START_FAILED)

    async def _replay(
        self, tenant: TenantId, known: tuple[bytes, SandboxId], idempotency: Idempotency
    ) -> Sandbox | None:
        """Return the sandbox that the key stands for, once it is started; None if that failed and freed the key."""
        digest, sandbox_id = known
        if digest != idempotency.digest:
            raise IdempotencyMismatch(
                "This Idempotency-Key was used for a different request; use a new key for a new request"
            )
        if (started := self._started.get(sandbox_id)) is not None:
            await started.wait()
        try:
            sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        except SandboxNotFound:  # there was no room for it, or no such template
            return None
        if sandbox.end_reason is EndReason.START_FAILED:
            return None
        if sandbox.status is Status.STARTING:
            raise Unavailable("The sandbox of this Idempotency-Key is still starting; repeat the request")
        return sandbox


async def _undo(error: Exception, work: Coroutine[Any, Any, None]) -> None:
    """Await *work*; if it fails too, the first error is still the one to tell, and the next sweep tidies up."""
    try:
        await work
    except Exception as second:  # noqa: BLE001 - must not replace the first
        error.add_note(f"undoing it failed as well: {second}")
        _log.warning("undo_failed", error=type(second).__name__, exc_info=second)


def check_offered(request: CreateRequest, policy: Policy) -> str:
    """Return the template's name, or raise NotOffered for what this server does not do."""
    if request.snapshot is not None:
        raise NotOffered("This server does not offer snapshots; create from a template")
    if request.template is None:
        raise InvalidRequest("template must be given")
    if not _TEMPLATE.fullmatch(request.template):
        raise InvalidRequest("template must be a name: letters, digits, '.', '_' and '-', 64 at most")
    if request.network is not Network.OFF:
        raise NotOffered(f"This server offers no network '{request.network}'; use network 'off'")
    if request.on_timeout is not OnTimeout.KILL:
        raise NotOffered("This server cannot pause sandboxes; use on_timeout 'kill'")
    if request.preview_auth:
        raise NotOffered("This server offers no preview addresses; leave preview_auth false")
    if request.volume is not None:
        raise NotOffered("This server offers no volumes; leave volume out")
    if request.region not in (None, policy.region):
        raise NotOffered(f"This server has one region; leave region out or say: {policy.region}")
    return request.template


def check_idempotency_key(key: str) -> None:
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")


def request_digest(canonical: bytes) -> bytes:
    """Identify a request's content for `Idempotency`; *canonical* is the same for equal requests."""
    return hashlib.sha256(canonical).digest()
