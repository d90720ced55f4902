"""
Named snapshots: record CAPTURING → save the machine while it runs on → record READY.

A capture that fails, or dies, leaves nothing that counts: its record is removed, or marked FAILED by the next start.
"""

from __future__ import annotations

from collections.abc import Sequence

from terpd.control.at_work import AtWork
from terpd.control.checks import check_name, check_no_volume
from terpd.control.clock import Clock
from terpd.control.collect import Collector
from terpd.control.ended import explaining_end
from terpd.control.pause import unwrap_key
from terpd.control.policy import Policy
from terpd.control.shielded import Shielded
from terpd.control.undo import undo
from terpd.model.errors import StateConflict
from terpd.model.ids import SandboxId, StateId, TenantId, new_state_id
from terpd.model.ports import Node, StateRef, Store
from terpd.model.sandbox import Sandbox, require_running
from terpd.model.snapshot import Snapshot, SnapshotStatus
from terpd.sealing.keyring import DataKey, KeyRing


class Snapshots:
    def __init__(
        self,
        store: Store,
        node: Node,
        policy: Policy,
        keys: KeyRing,
        clock: Clock,
        at_work: AtWork,
        collector: Collector,
        shielded: Shielded,
    ) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._keys = keys
        self._clock = clock
        self._at_work = at_work
        self._collector = collector
        self._shielded = shielded

    async def create(
        self, tenant: TenantId, sandbox_id: SandboxId, name: str | None, *, include_secrets: bool = False
    ) -> Snapshot:
        """
        Return the snapshot in READY. The source stands still for a moment and runs on.

        If the caller goes away, it is finished all the same. Without *include_secrets* the variables that were set
        while the source ran are not in it.

        Raises:
            InvalidRequest: *name* has not 1 to 128 printable bytes.
            SandboxNotFound.
            StateConflict: The source does not run, something else is being done with it, or it ended meanwhile.
            SecretsInUse: Without *include_secrets*: a command runs that was given secrets.
            SnapshotCap: The tenant has all the named snapshots that it may have.
            StorageFull, Unavailable, GuestFault, DeadlineExceeded, StateMismatch: It was not taken.
        """
        check_name(name)
        source = await self._store.get_sandbox(tenant, sandbox_id)
        require_running(source)
        check_no_volume(source.volume, source.id)
        return await self._shielded.run(self._take(source, name, include_secrets=include_secrets))

    async def list(self, tenant: TenantId) -> Sequence[Snapshot]:
        """Newest first."""
        return await self._store.list_snapshots(tenant)

    async def get(self, tenant: TenantId, state_id: StateId) -> Snapshot:
        """Raises SnapshotNotFound."""
        return await self._store.get_snapshot(tenant, state_id)

    async def delete(self, tenant: TenantId, state_id: StateId) -> None:
        """
        Destroy the snapshot's key, and its files soon after. Sandboxes created from it go on.

        Idempotent: of one that is not there, nothing is deleted.
        """
        if await self._store.delete_snapshot(tenant, state_id, at=self._clock.now()):
            self._collector.soon()

    async def _take(self, source: Sandbox, name: str | None, *, include_secrets: bool) -> Snapshot:
        state_id = new_state_id()
        key = self._keys.new_data_key(state_id)
        with self._at_work.claim(source.id, "being saved as a snapshot"):
            async with self._collector.capturing(state_id):
                snapshot = new_snapshot(source, state_id, key, self._clock, name=name, for_fork=False)
                await self._store.add_snapshot(snapshot, max_named=self._policy.max_named_snapshots)
                async with explaining_end(self._store, source.tenant, source.id, "while its snapshot was taken"):
                    try:
                        saved = await self._node.snapshot_machine(
                            source.id,
                            key=unwrap_key(self._keys, source),
                            into=StateRef(state_id, key.secret),
                            withhold_secrets=not include_secrets,
                        )
                        ready = await self._store.finish_snapshot(state_id, at=self._clock.now(), saved=saved)
                    except Exception as error:
                        await undo(error, self.delete(source.tenant, state_id))
                        raise
        if ready is None:
            self._collector.soon()
            raise StateConflict(f"Snapshot {state_id} was deleted while it was taken")
        return ready


def new_snapshot(
    source: Sandbox, state_id: StateId, key: DataKey, clock: Clock, *, name: str | None, for_fork: bool
) -> Snapshot:
    """The record of a snapshot that is about to be taken."""
    return Snapshot(
        id=state_id,
        tenant=source.tenant,
        status=SnapshotStatus.CAPTURING,
        name=name,
        source=source.id,
        template=source.template,
        size=source.size,
        network=source.network,
        region=source.region,
        node_id=source.node_id,
        created_at=clock.now(),
        for_fork=for_fork,
        allow_domains=source.allow_domains,
        report_only=source.report_only,
        key_id=key.id,
        sealed_key=key.sealed,
    )
