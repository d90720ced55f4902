"""
Create a sandbox from a template or a snapshot: check → record STARTING → start the machine → record RUNNING.

Dying after the first record leaves a STARTING row; the next start reaps whatever machine it has and marks it FAILED.
A row whose undoing failed is left to the next sweep in the same way.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from terpd.control.alarm import Alarm
from terpd.control.at_work import AtWork
from terpd.control.checks import check_allow_domains, check_env, check_lease, check_lifetime, check_metadata
from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.credentials import CredentialRequest, check_credentials, placeholders
from terpd.control.network import Networks, network_spec
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.undo import undo
from terpd.control.volumes import Volumes
from terpd.model.errors import (
    AlreadyExists,
    CapacityUnavailable,
    IdempotencyMismatch,
    InvalidRequest,
    NotOffered,
    SandboxNotFound,
    SavedStateFault,
    SnapshotNotFound,
    StateConflict,
    StateMismatch,
    TemplateNotFound,
    Unavailable,
)
from terpd.model.ids import SandboxId, TenantId, new_sandbox_id, parse_state_id
from terpd.model.ports import Change, Idempotency, MachineSpec, Node, StateRef, Store
from terpd.model.sandbox import EndReason, Network, OnTimeout, Sandbox, Status
from terpd.model.snapshot import Snapshot, SnapshotStatus
from terpd.model.volume import Volume
from terpd.sealing.keyring import KeyRing

_TEMPLATE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

NOTHING_STARTED = (CapacityUnavailable, TemplateNotFound, SavedStateFault)  # as start_machine promises


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """
    What a caller asks for, before it is checked: exactly one of `template` and `snapshot`.

    With `snapshot`, size and network are the snapshot's, whatever is given here. `env` is secret: it goes to the
    guest's memory and nowhere else.

    Attributes:
        allow_domains, report_only: None: with `snapshot` what its source had, or else the template's default list,
            enforced. Without effect, and not recorded, where network is `off`.
        secrets: Credentials that the sandbox uses without holding them.
    """

    template: str | None = None
    size: str = "small"
    network: Network = Network.OFF
    allow_domains: Sequence[str] | None = None
    report_only: bool | None = None
    secrets: Sequence[CredentialRequest] = field(default=(), repr=False)
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
    """
    A request that was checked, and the sandbox it will be: STARTING, with its id, recorded nowhere yet.

    `new_volume`: it names a volume that there was not then.
    """

    sandbox: Sandbox
    machine: MachineSpec
    new_volume: Volume | None = None


class CreateSandbox:
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
        volumes: Volumes,
    ) -> None:
        self._volumes = volumes
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

    async def plan(self, tenant: TenantId, request: CreateRequest) -> PlannedSandbox:
        """
        Raises:
            InvalidRequest, NotOffered, TooLarge: The request is out of bounds, or asks for what is not here.
            PlanLimit: A sandbox may not run that long.
            SnapshotNotFound.
            StateConflict: The snapshot is still being taken, or could not be taken.
            StateMismatch: The snapshot is on another node, or its key or the volume's cannot be unwrapped.
            VolumeNotFound: By its id.
        """
        check_offered(request, self._policy)
        allow_domains = check_allow_domains(request.allow_domains)
        credentials = check_credentials(request.secrets)
        env = _with_placeholders(request.env, placeholders(request.secrets, credentials))
        check_env(env)
        check_metadata(request.metadata)
        check_lease(request.timeout_s, maximum=self._policy.max_timeout_s)
        now = self._clock.now()
        expires_at = now + dt.timedelta(seconds=request.timeout_s)
        check_lifetime(expires_at, began_at=now, maximum_s=self._policy.max_running_lifetime_s)
        snapshot, state = await self._snapshot(tenant, request.snapshot)
        volume = new_volume = None
        if request.volume is not None:
            volume = await self._volumes.find(tenant, request.volume)
            if volume is None:
                volume = new_volume = self._volumes.new(tenant, request.volume)
        size = self._policy.sizes.get(request.size) if snapshot is None else snapshot.size
        if size is None:
            raise InvalidRequest(f"size must be one of {', '.join(self._policy.sizes)}")
        sandbox_id = new_sandbox_id()
        key = self._keys.new_data_key(sandbox_id)
        sandbox = Sandbox(
            id=sandbox_id,
            tenant=tenant,
            status=Status.STARTING,
            template=request.template or "" if snapshot is None else snapshot.template,
            size=size,
            network=request.network if snapshot is None else snapshot.network,
            region=self._policy.region,
            node_id=self._node.node_id,
            created_at=now,
            expires_at=expires_at,
            on_timeout=request.on_timeout,
            auto_resume=request.auto_resume,
            metadata=dict(request.metadata),
            lease_s=request.timeout_s,
            snapshot=None if snapshot is None else snapshot.id,
            credentials=tuple(replace(credential, value="") for credential in credentials),
            preview_auth=request.preview_auth,
            volume=None if volume is None else volume.name,
            volume_id=None if volume is None else volume.id,
            key_id=key.id,
            sealed_key=key.sealed,
        )
        if sandbox.network is Network.OFF:
            if credentials:
                raise InvalidRequest("secrets are put in on the way out; they need network 'restricted' or 'open'")
        else:
            sandbox = _with_policy(sandbox, snapshot, allow_domains, report_only=request.report_only)
        machine = MachineSpec(
            sandbox_id=sandbox.id,
            template=sandbox.template,
            size=sandbox.size,
            key=key.secret,
            env=env,
            state=state,
            fork=state is not None,
            network=network_spec(sandbox, credentials),
            volume=None if volume is None else self._volumes.ref(volume),
        )
        return PlannedSandbox(sandbox, machine, new_volume)

    async def __call__(self, planned: PlannedSandbox, *, idempotency: Idempotency | None = None) -> Sandbox:
        """
        Return the sandbox in RUNNING. Its lease begins now, not at the request.

        With *idempotency*, a request that was answered before returns that sandbox, in the state it has now.
        If the caller goes away, the create is finished all the same; the sandbox is listed and its lease bounds it.

        Raises:
            TemplateNotFound, PlanLimit, CapacityUnavailable: Nothing was created.
            IdempotencyMismatch: The key was used for something else.
            GuestFault, DeadlineExceeded: The machine did not come up; the sandbox is recorded as FAILED.
            VolumeInUse: Another sandbox holds the volume. Nothing was created.
            StateConflict: It was terminated while it was starting, or the volume is being moved.
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

    async def _start(self, planned: PlannedSandbox, idempotency: Idempotency | None) -> Sandbox:
        if planned.new_volume is not None:
            return await self._start_with_new_volume(planned, planned.new_volume, idempotency)
        sandbox = planned.sandbox
        state = planned.machine.state
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._at_work.claim(sandbox.id, "being created"))
            if state is not None:
                stack.enter_context(self._collector.using(state.id))
            await self._store.add_sandbox(sandbox, max_live=self._policy.max_concurrent, idempotency=idempotency)
            try:
                await self._node.start_machine(planned.machine)
            except NOTHING_STARTED as error:  # then nothing is recorded
                await undo(error, self._store.forget_sandbox(sandbox.id))
                raise
            except Exception as error:
                await undo(error, self._fail(sandbox.id))
                raise
            if planned.machine.network is not None:
                self._networks.credentials.hold(sandbox.id, planned.machine.network.credentials)
            try:
                return await self._confirm(sandbox)
            except Exception as error:
                await undo(error, self._fail(sandbox.id))
                raise

    async def _start_with_new_volume(
        self, planned: PlannedSandbox, volume: Volume, idempotency: Idempotency | None
    ) -> Sandbox:
        """Record the volume first. A create that fails takes it away again, unless somebody has begun to use it."""
        try:
            await self._volumes.add(volume)
        except AlreadyExists:  # another create was faster, and made it
            made = await self._store.get_volume(volume.tenant, volume.name)
            sandbox = replace(planned.sandbox, volume_id=made.id)
            machine = replace(planned.machine, volume=self._volumes.ref(made))
            return await self._start(PlannedSandbox(sandbox, machine), idempotency)
        try:
            return await self._start(replace(planned, new_volume=None), idempotency)
        except Exception as error:
            await undo(error, self._volumes.end(volume))
            raise

    async def _confirm(self, sandbox: Sandbox) -> Sandbox:
        now = self._clock.now()
        change = Change(expires_at=now + dt.timedelta(seconds=sandbox.lease_s))
        running = await self._store.set_status(sandbox.id, Status.RUNNING, at=now, change=change)
        if running is None:
            raise StateConflict(f"Sandbox {sandbox.id} ended while it was starting; create a new one")
        self._alarm.notice(running.expires_at)
        return running

    async def _fail(self, sandbox_id: SandboxId) -> None:
        self._networks.credentials.drop(sandbox_id)
        await self._node.stop_machine(sandbox_id)
        change = Change(reason=EndReason.START_FAILED)
        await self._store.set_status(sandbox_id, Status.FAILED, at=self._clock.now(), change=change)

    async def _snapshot(self, tenant: TenantId, text: str | None) -> tuple[Snapshot | None, StateRef | None]:
        if text is None:
            return None, None
        state_id = parse_state_id(text)
        if state_id is None:
            raise SnapshotNotFound(f"There is no such snapshot: {text[:64]!r}")
        snapshot = await self._store.get_snapshot(tenant, state_id)
        if snapshot.status is SnapshotStatus.CAPTURING:
            raise StateConflict(
                f"Snapshot {state_id} is still being taken; wait until it is ready", fields={"status": "capturing"}
            )
        if snapshot.status is SnapshotStatus.FAILED or snapshot.sealed_key is None:
            raise StateConflict(
                f"Snapshot {state_id} could not be taken; delete it and take another one", fields={"status": "failed"}
            )
        if snapshot.node_id != self._node.node_id:
            raise StateMismatch(f"Snapshot {state_id} is on another node than this server's: {snapshot.node_id}")
        return snapshot, StateRef(state_id, self._keys.unwrap(snapshot.sealed_key, state_id))

    async def _replay(
        self, tenant: TenantId, known: tuple[bytes, SandboxId], idempotency: Idempotency
    ) -> Sandbox | None:
        """Return the sandbox that the key stands for, once it is started; None if that failed and freed the key."""
        digest, sandbox_id = known
        if digest != idempotency.digest:
            raise IdempotencyMismatch(
                "This Idempotency-Key was used for a different request; use a new key for a new request"
            )
        if (done := self._at_work.done(sandbox_id)) is not None:
            await done.wait()
        try:
            sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        except SandboxNotFound:  # there was no room for it, or no such template
            return None
        if sandbox.end_reason is EndReason.START_FAILED:
            return None
        if sandbox.status is Status.STARTING:
            raise Unavailable("The sandbox of this Idempotency-Key is still starting; repeat the request")
        return sandbox


def check_offered(request: CreateRequest, policy: Policy) -> None:
    """Raise InvalidRequest or NotOffered for what this server does not do."""
    if (request.template is None) == (request.snapshot is None):
        raise InvalidRequest("template or snapshot must be given, and not both")
    if request.template is not None and not _TEMPLATE.fullmatch(request.template):
        raise InvalidRequest("template must be a name: letters, digits, '.', '_' and '-', 64 at most")
    if request.volume is not None and request.snapshot is not None:
        raise InvalidRequest("volume goes with a template; leave it out, or leave snapshot out")
    if request.region not in (None, policy.region):
        raise NotOffered(f"This server has one region; leave region out or say: {policy.region}")


def _with_policy(
    sandbox: Sandbox, snapshot: Snapshot | None, allow_domains: Sequence[str] | None, *, report_only: bool | None
) -> Sandbox:
    """Return a sandbox that has a network with what was requested or, of a snapshot, with what its source had."""
    if snapshot is not None:
        allow_domains = snapshot.allow_domains if allow_domains is None else allow_domains
        report_only = snapshot.report_only if report_only is None else report_only
    return replace(sandbox, allow_domains=allow_domains, report_only=bool(report_only))


def _with_placeholders(env: Mapping[str, str], variables: Mapping[str, str]) -> Mapping[str, str]:
    if twice := sorted(env.keys() & variables.keys()):
        raise InvalidRequest(
            f"env and secrets both set {twice[0]}; leave it out of env, or give the secret another env or an empty one"
        )
    return {**env, **variables}


def check_idempotency_key(key: str) -> None:
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")


def request_digest(canonical: bytes) -> bytes:
    """Identify a request's content for `Idempotency`; *canonical* is the same for equal requests."""
    return hashlib.sha256(canonical).digest()
