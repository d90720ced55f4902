"""
What a sandbox may reach: record the new policy → let the node apply it.

Dying in between leaves a machine that reaches nothing until the next start has applied what is recorded. A policy that
could not be applied is applied by the next sweep. One of a sandbox that is paused holds from its resume on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import structlog

from terpd.control.at_work import AtWork
from terpd.control.checks import check_allow_domains
from terpd.control.credentials import Credentials
from terpd.control.ended import explaining_end
from terpd.control.shielded import Shielded
from terpd.model.errors import StateConflict, TerpError
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Credential, NetworkPolicy, NetworkSpec
from terpd.model.ports import Node, Store
from terpd.model.sandbox import FINAL, Network, Sandbox, Status

_log = structlog.get_logger(__name__)


class Unset(Enum):
    """Not given, where None is a value."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class NetworkChange:
    """What is not given stays. `allow_domains` None is the template's default list."""

    mode: Network | None = None
    allow_domains: Sequence[str] | Unset | None = UNSET
    report_only: bool | None = None


class Networks:
    """
    What the node is told of networks; the record is what counts.

    Sandboxes whose policy this process is not sure to have told the node are found by the sweep: after a restart, all.
    """

    def __init__(self, store: Store, node: Node, credentials: Credentials) -> None:
        self._store = store
        self._node = node
        self.credentials = credentials
        self._told: set[SandboxId] = set()
        self._turns: dict[SandboxId, tuple[asyncio.Lock, int]] = {}

    def spec(self, sandbox: Sandbox) -> NetworkSpec | None:
        """For a machine of *sandbox* as it is recorded, with the credentials that are here."""
        return network_spec(sandbox, self.credentials.fill(sandbox.id, sandbox.credentials))

    @contextlib.asynccontextmanager
    async def turn(self, sandbox_id: SandboxId) -> AsyncIterator[None]:
        """One at a time of a sandbox, so that what the node is told last is what was recorded last."""
        lock, users = self._turns.get(sandbox_id, (asyncio.Lock(), 0))
        self._turns[sandbox_id] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns[sandbox_id]
            if users == 1:
                del self._turns[sandbox_id]
            else:
                self._turns[sandbox_id] = lock, users - 1

    async def apply(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        """
        Tell the node what is recorded now, if the sandbox has a machine. Returns the sandbox.

        Raises:
            SandboxNotFound.
            StateConflict, Unavailable: As of `Node.set_network`.
        """
        async with self.turn(sandbox_id):
            self._told.discard(sandbox_id)
            sandbox = await self._store.get_sandbox(tenant, sandbox_id)
            while (spec := self.spec(sandbox)) is not None and sandbox.status in (Status.RUNNING, Status.PAUSING):
                try:
                    await self._node.set_network(sandbox_id, spec)
                except StateConflict:  # its pause may have ended, and it may even run again
                    before, sandbox = sandbox, await self._store.get_sandbox(tenant, sandbox_id)
                    if _machine(before) == _machine(sandbox):
                        raise
                else:
                    self._told.add(sandbox_id)
                    break
            return sandbox

    async def ensure(self, sandbox: Sandbox) -> None:
        """Apply what may not have been applied; a failure is left to the next sweep."""
        if sandbox.network is Network.OFF or sandbox.id in self._told:
            return
        try:
            await self.apply(sandbox.tenant, sandbox.id)
        except TerpError as error:
            _log.warning("network_not_set", sandbox_id=sandbox.id, error=error.code, context=error.context)

    def keep_only(self, live: Collection[SandboxId]) -> None:
        """Forget all but these sandboxes, and their credentials."""
        self._told.intersection_update(live)
        self.credentials.keep_only(live)


class SetNetworkPolicy:
    def __init__(self, store: Store, networks: Networks, at_work: AtWork, shielded: Shielded) -> None:
        self._store = store
        self._networks = networks
        self._at_work = at_work
        self._shielded = shielded

    async def set(self, tenant: TenantId, sandbox_id: SandboxId, change: NetworkChange) -> Sandbox:
        """
        Change what a sandbox may reach. On return it holds, also for connections under way; of one that is paused,
        from its resume on.

        If the caller goes away, it is finished all the same.

        Raises:
            InvalidRequest, TooLarge: A name is none, or there are too many.
            SandboxNotFound.
            StateConflict: It has ended, or the change is from or to `off`.
            Unavailable: It is recorded, and will hold within a minute or so; repeating is safe.
        """
        domains = change.allow_domains
        checked = domains if isinstance(domains, Unset) else check_allow_domains(domains)
        if change.mode is Network.OFF:
            await self._refuse_off(tenant, sandbox_id)
        return await self._shielded.run(self._set(tenant, sandbox_id, change, checked))

    async def _refuse_off(self, tenant: TenantId, sandbox_id: SandboxId) -> None:
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        if sandbox.network is not Network.OFF:
            raise StateConflict(
                f"Sandbox {sandbox_id} has a network device for good; to let it reach nothing, set network"
                " 'restricted' with an empty allow_domains"
            )

    async def _set(
        self, tenant: TenantId, sandbox_id: SandboxId, change: NetworkChange, domains: Sequence[str] | Unset | None
    ) -> Sandbox:
        async with self._networks.turn(sandbox_id):
            before = await self._store.get_sandbox(tenant, sandbox_id)
            recorded = await self._store.set_network_policy(
                tenant,
                sandbox_id,
                network=change.mode or before.network,
                allow_domains=before.allow_domains if isinstance(domains, Unset) else domains,
                report_only=before.report_only if change.report_only is None else change.report_only,
            )
        # A start that is under way may have read the record before, and its machine is not there to be told.
        if recorded.status in (Status.STARTING, Status.RESUMING) and (done := self._at_work.done(sandbox_id)):
            await done.wait()
        async with explaining_end(self._store, tenant, sandbox_id, "while its network was changed"):
            sandbox = await self._networks.apply(tenant, sandbox_id)
            if sandbox.status in FINAL:
                raise StateConflict(f"Sandbox {sandbox_id} has ended")
            return sandbox


def _machine(sandbox: Sandbox) -> tuple[object, ...]:
    """What changes when a sandbox gets or loses its machine."""
    return sandbox.status, sandbox.window_began_at


def network_spec(sandbox: Sandbox, credentials: Sequence[Credential]) -> NetworkSpec | None:
    """None for a machine without network device."""
    if sandbox.network is Network.OFF:
        return None
    policy = NetworkPolicy(
        open=sandbox.network is Network.OPEN,
        allow_domains=sandbox.allow_domains,
        report_only=sandbox.report_only,
    )
    return NetworkSpec(sandbox.tenant, policy, credentials)
