"""
Fork a sandbox: record all children STARTING → save the source while it runs on → start the children from that at the
same time → record all of them RUNNING in one step.

All of them or none. Dying in between leaves STARTING rows and a snapshot for a fork: the next start reaps both.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from terpd.control.alarm import Alarm
from terpd.control.at_work import AtWork
from terpd.control.checks import check_env, check_lease, check_lifetime, check_metadata, check_no_volume
from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.create import NOTHING_STARTED
from terpd.control.ended import explaining_end
from terpd.control.network import Networks, network_spec
from terpd.control.pause import unwrap_key
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.snapshots import new_snapshot
from terpd.control.undo import undo
from terpd.model.errors import InvalidRequest, StateConflict, TerpError
from terpd.model.ids import SandboxId, StateId, TenantId, new_sandbox_id, new_state_id
from terpd.model.ports import Change, MachineSpec, Node, StateRef, Store
from terpd.model.sandbox import EndReason, OnTimeout, Sandbox, Status, require_running
from terpd.model.snapshot import SavedState
from terpd.sealing.keyring import DataKey, KeyRing

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """
    What a caller asks for, before it is checked; all of it is each child's.

    `env` is set over what the source has, and is secret: it goes to the guests' memory and nowhere else. A child's
    network is the source's.

    Attributes:
        inherit_secrets: The children may use the source's credentials, too. False: they have none.
        include_secrets: The children have the variables that were set while the source ran.
    """

    count: int = 1
    timeout_s: int = 600
    on_timeout: OnTimeout = OnTimeout.KILL
    auto_resume: bool = False
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    inherit_secrets: bool = False
    include_secrets: bool = False


@dataclass(frozen=True, slots=True)
class Forked:
    """The children, all in RUNNING, and what saving the source came to."""

    children: Sequence[Sandbox]
    saved: SavedState


class ForkSandbox:
    def __init__(
        self,
        store: Store,
        node: Node,
        policy: Policy,
        keys: KeyRing,
        clock: Clock,
        alarm: Alarm,
        at_work: AtWork,
        collector: Collector,
        shielded: Shielded,
        networks: Networks,
    ) -> None:
        self._networks = networks
        self._store = store
        self._node = node
        self._policy = policy
        self._keys = keys
        self._clock = clock
        self._alarm = alarm
        self._at_work = at_work
        self._collector = collector
        self._shielded = shielded

    async def __call__(self, tenant: TenantId, sandbox_id: SandboxId, request: ForkRequest) -> Forked:
        """
        Start `request.count` sandboxes, each of which goes on where the source is, while the source runs on.

        If the caller goes away, the fork is finished all the same.

        Raises:
            InvalidRequest, TooLarge: The request is out of bounds.
            SandboxNotFound.
            StateConflict: The source does not run, something else is being done with it, or it or a child ended.
            SecretsInUse: Without `request.include_secrets`: a command runs that was given secrets. Nothing was created.
            PlanLimit: The tenant may not have that many sandboxes in use. Nothing was created.
            CapacityUnavailable: Not all children fit. Nothing was created.
            StorageFull, Unavailable, StateMismatch: The source was not saved. Nothing was created.
            GuestFault, DeadlineExceeded: As before, or a child did not come up: all children are recorded as FAILED.
        """
        if not 1 <= request.count <= self._policy.max_fork:
            raise InvalidRequest(f"count must be 1 to {self._policy.max_fork}, not: {request.count}")
        check_env(request.env)
        check_metadata(request.metadata)
        check_lease(request.timeout_s, maximum=self._policy.max_timeout_s)
        now = self._clock.now()
        expires_at = now + dt.timedelta(seconds=request.timeout_s)
        check_lifetime(expires_at, began_at=now, maximum_s=self._policy.max_running_lifetime_s)
        source = await self._store.get_sandbox(tenant, sandbox_id)
        require_running(source)
        check_no_volume(source.volume, source.id)
        return await self._shielded.run(self._fork(source, request))

    async def _fork(self, source: Sandbox, request: ForkRequest) -> Forked:
        state_id = new_state_id()
        state_key = self._keys.new_data_key(state_id)
        inherited = source.credentials if request.inherit_secrets else ()
        credentials = self._networks.credentials.fill(source.id, inherited)
        children = [self._child(source, request, state_id) for _ in range(request.count)]
        machines = [
            MachineSpec(
                sandbox_id=child.id,
                template=child.template,
                size=child.size,
                key=key.secret,
                env=request.env,
                state=StateRef(state_id, state_key.secret),
                fork=True,
                network=network_spec(child, credentials),
            )
            for child, key in children
        ]
        ids = [child.id for child, _ in children]
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._at_work.claim(source.id, "being forked"))
            for child_id in ids:
                stack.enter_context(self._at_work.claim(child_id, "being created"))
            await stack.enter_async_context(self._collector.capturing(state_id))
            await stack.enter_async_context(
                explaining_end(self._store, source.tenant, source.id, "while it was being forked")
            )
            await self._record_all([child for child, _ in children])
            try:
                saved = await self._save(source, state_id, state_key, include_secrets=request.include_secrets)
            except Exception as error:
                await undo(error, self._forget_all(ids))
                raise
            for child_id in ids:
                self._networks.credentials.hold(child_id, credentials)
            try:
                running = await self._start_all(machines, request.timeout_s)
            except Exception as error:
                await undo(error, self._end_all(ids, forget=isinstance(error, NOTHING_STARTED)))
                await undo(error, self._drop(source.tenant, state_id))
                raise
        try:
            await self._drop(source.tenant, state_id)
        except TerpError as error:  # the children run; the next sweep finds the record
            _log.warning("fork_state_left", state_id=state_id, error=error.code, context=error.context)
        return Forked(running, saved)

    def _child(self, source: Sandbox, request: ForkRequest, state_id: StateId) -> tuple[Sandbox, DataKey]:
        child_id = new_sandbox_id()
        key = self._keys.new_data_key(child_id)
        now = self._clock.now()
        child = Sandbox(
            id=child_id,
            tenant=source.tenant,
            status=Status.STARTING,
            template=source.template,
            size=source.size,
            network=source.network,
            region=source.region,
            node_id=source.node_id,
            created_at=now,
            expires_at=now + dt.timedelta(seconds=request.timeout_s),
            on_timeout=request.on_timeout,
            auto_resume=request.auto_resume,
            metadata=dict(request.metadata),
            allow_domains=source.allow_domains,
            report_only=source.report_only,
            credentials=source.credentials if request.inherit_secrets else (),
            preview_auth=source.preview_auth,
            lease_s=request.timeout_s,
            snapshot=state_id,
            key_id=key.id,
            sealed_key=key.sealed,
        )
        return child, key

    async def _record_all(self, children: Sequence[Sandbox]) -> None:
        recorded: list[SandboxId] = []
        try:
            for child in children:
                await self._store.add_sandbox(child, max_live=self._policy.max_concurrent)
                recorded.append(child.id)
        except Exception as error:
            await undo(error, self._forget_all(recorded))
            raise

    async def _save(self, source: Sandbox, state_id: StateId, key: DataKey, *, include_secrets: bool) -> SavedState:
        snapshot = new_snapshot(source, state_id, key, self._clock, name=None, for_fork=True)
        await self._store.add_snapshot(snapshot, max_named=None)
        try:
            return await self._node.snapshot_machine(
                source.id,
                key=unwrap_key(self._keys, source),
                into=StateRef(state_id, key.secret),
                withhold_secrets=not include_secrets,
            )
        except Exception as error:
            await undo(error, self._drop(source.tenant, state_id))
            raise

    async def _start_all(self, machines: Sequence[MachineSpec], timeout_s: int) -> Sequence[Sandbox]:
        outcomes = await asyncio.gather(*map(self._node.start_machine, machines), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if errors:
            raise next((error for error in errors if isinstance(error, NOTHING_STARTED)), errors[0])
        now = self._clock.now()
        expires_at = now + dt.timedelta(seconds=timeout_s)
        running = await self._store.start_all({machine.sandbox_id: expires_at for machine in machines}, at=now)
        if running is None:
            raise StateConflict("A child was terminated while it was starting; fork again")
        self._alarm.notice(expires_at)
        return running

    async def _end_all(self, ids: Sequence[SandboxId], *, forget: bool) -> None:
        """Stop every child's machine. One that does not stop keeps its row, for the next sweep."""
        for child_id in ids:
            self._networks.credentials.drop(child_id)
        outcomes = await asyncio.gather(*map(self._node.stop_machine, ids), return_exceptions=True)
        stopped = [child for child, outcome in zip(ids, outcomes, strict=True) if outcome is None]
        if forget:
            await self._forget_all(stopped)
            return
        change = Change(reason=EndReason.START_FAILED)
        for child_id in stopped:
            await self._store.set_status(child_id, Status.FAILED, at=self._clock.now(), change=change)

    async def _forget_all(self, ids: Sequence[SandboxId]) -> None:
        for child_id in ids:
            await self._store.forget_sandbox(child_id)

    async def _drop(self, tenant: TenantId, state_id: StateId) -> None:
        """The fork's snapshot has done its work."""
        await self._store.delete_snapshot(tenant, state_id, at=self._clock.now())
        self._collector.soon()
