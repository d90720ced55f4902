"""The Store port on SQLite. Another engine differs in how it is opened and locked; the queries stay."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from terpd.model.errors import NotFound, SandboxNotFound, SnapshotNotFound, StateConflict
from terpd.model.ids import KeyId, SandboxId, StateId, TenantId
from terpd.model.network import EgressFilter, EgressRecord, Traffic
from terpd.model.ports import ApiKey, Change, Idempotency, SandboxFilter
from terpd.model.sandbox import FINAL, Network, Sandbox, Status, require_running
from terpd.model.snapshot import Receipt, SavedState, Snapshot
from terpd.store import queries
from terpd.store.changes import check_named, check_on_node, move, record_destroyed, record_idempotency, set_network
from terpd.store.egress import add_egress
from terpd.store.engine import READ_THREADS, Transactions, empty_log, sqlite_engine
from terpd.store.migrate import migrate
from terpd.store.rows import (
    egress_from_row,
    key_from_row,
    key_to_row,
    receipt_from_row,
    sandbox_from_row,
    sandbox_to_row,
    snapshot_from_row,
    snapshot_to_row,
    traffic_from_row,
)
from terpd.store.usage import UsageRecords
from terpd.store.volumes import VolumeRecords, attach, detach
from terpd.store.webhooks import WebhookRecords

_NO_CHANGE = Change()


async def open_sqlite(path: Path) -> SqliteStore:
    """
    Open the database at *path*, made and migrated as needed. Several processes may have it open.

    Raises:
        Unavailable: It cannot be opened, or a newer release has written it.
    """
    writer = sqlite_engine(path, writes=True, connections=1)
    await asyncio.to_thread(_prepare, path, writer)
    reader = sqlite_engine(path, writes=False, connections=READ_THREADS)
    return SqliteStore(Transactions(writer, reader))


def _prepare(path: Path, writer: sa.Engine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made by us first, so that no moment exists in which others can read it; SQLite gives -wal and -shm its mode.
    path.touch(mode=0o600, exist_ok=True)
    migrate(writer)
    empty_log(writer)


class SqliteStore(WebhookRecords, UsageRecords, VolumeRecords):
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def close(self) -> None:
        await self._transactions.close()

    async def add_sandbox(
        self, sandbox: Sandbox, *, max_live: int | None, idempotency: Idempotency | None = None
    ) -> None:
        row = sandbox_to_row(sandbox)
        pairs = [{"sandbox_id": sandbox.id, "key": k, "value": v} for k, v in sandbox.metadata.items()]

        def work(connection: sa.Connection) -> None:
            connection.execute(queries.insert_sandbox, row)
            check_on_node(connection, sandbox.tenant, max_live)
            if pairs:
                connection.execute(queries.insert_metadata, pairs)
            if idempotency is not None:
                record_idempotency(connection, sandbox, idempotency)
            attach(connection, sandbox)

        await self._transactions.write(work)

    async def forget_sandbox(self, sandbox_id: SandboxId) -> None:
        def work(connection: sa.Connection) -> None:
            if connection.execute(queries.delete_starting, {"sandbox_id": sandbox_id}).rowcount:
                detach(connection, sandbox_id)

        await self._transactions.write(work)

    async def get_sandbox(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        values = {"of_tenant": tenant, "sandbox_id": sandbox_id}
        row = await self._transactions.read(lambda c: c.execute(queries.select_sandbox, values).first())
        if row is None:
            raise _unknown(sandbox_id)
        return sandbox_from_row(row)

    async def list_sandboxes(self, tenant: TenantId, where: SandboxFilter) -> Sequence[Sandbox]:
        query = queries.select_page(where)
        rows = await self._transactions.read(lambda c: c.execute(query, {"of_tenant": tenant}).all())
        return [sandbox_from_row(row) for row in rows]

    async def set_status(
        self, sandbox_id: SandboxId, status: Status, *, at: dt.datetime, change: Change = _NO_CHANGE
    ) -> Sandbox | None:
        return await self._transactions.write(lambda c: move(c, sandbox_id, status, at, change), erases=status in FINAL)

    async def start_all(self, leases: Mapping[SandboxId, dt.datetime], *, at: dt.datetime) -> Sequence[Sandbox] | None:
        def work(connection: sa.Connection) -> list[Sandbox]:
            started = []
            for sandbox_id, expires_at in leases.items():
                change = Change(expires_at=expires_at, expected=Status.STARTING)
                sandbox = move(connection, sandbox_id, Status.RUNNING, at, change)
                if sandbox is None:
                    raise _NotAll
                started.append(sandbox)
            return started

        try:
            return await self._transactions.write(work)
        except _NotAll:
            return None

    async def set_lease(
        self, tenant: TenantId, sandbox_id: SandboxId, expires_at: dt.datetime, *, lease_s: int
    ) -> Sandbox:
        scope = {"of_tenant": tenant, "sandbox_id": sandbox_id}
        values = {**scope, "new_expires_at": expires_at, "new_lease_s": lease_s}

        def work(connection: sa.Connection) -> Sandbox:
            row = connection.execute(queries.update_lease, values).first()
            if row is not None:
                return sandbox_from_row(row)
            found = connection.execute(queries.select_sandbox, scope).first()
            if found is None:
                raise _unknown(sandbox_id)
            require_running(sandbox_from_row(found))
            raise StateConflict(f"Sandbox {sandbox_id} changed its state meanwhile; try again")

        return await self._transactions.write(work)

    async def live_sandboxes(self, node_id: str) -> Sequence[Sandbox]:
        return await self._select(queries.select_live_of_all, {"on_node": node_id})

    async def expired_sandboxes(self, node_id: str, now: dt.datetime) -> Sequence[Sandbox]:
        return await self._select(queries.select_expired_of_all, {"on_node": node_id, "now": now})

    async def next_expiry(self, node_id: str) -> dt.datetime | None:
        values = {"on_node": node_id}
        return await self._transactions.read(lambda c: c.execute(queries.select_next_expiry_of_all, values).scalar())

    async def count_on_node(self, tenant: TenantId) -> int:
        return await self._count(queries.count_on_node, tenant)

    async def count_saved(self, tenant: TenantId) -> int:
        return await self._count(queries.count_saved, tenant)

    async def add_snapshot(self, snapshot: Snapshot, *, max_named: int | None) -> None:
        def work(connection: sa.Connection) -> None:
            connection.execute(queries.insert_snapshot, snapshot_to_row(snapshot))
            check_named(connection, snapshot.tenant, max_named)

        await self._transactions.write(work)

    async def finish_snapshot(self, state_id: StateId, *, at: dt.datetime, saved: SavedState) -> Snapshot | None:
        values = {
            "capturing": state_id,
            "at": at,
            "new_stored_bytes": saved.stored_bytes,
            "new_stopped_ms": saved.stopped_s * 1000,
        }
        row = await self._transactions.write(lambda c: c.execute(queries.finish_snapshot, values).first())
        return None if row is None else snapshot_from_row(row)

    async def fail_snapshot(self, state_id: StateId, *, at: dt.datetime, error: str) -> None:
        def work(connection: sa.Connection) -> None:
            row = connection.execute(queries.lock_capturing, {"capturing": state_id}).first()
            if row is not None:
                connection.execute(queries.fail_snapshot, {"capturing": state_id, "new_error": error})
                record_destroyed(connection, snapshot_from_row(row), at)

        await self._transactions.write(work, erases=True)

    async def get_snapshot(self, tenant: TenantId, state_id: StateId) -> Snapshot:
        values = {"of_tenant": tenant, "state_id": state_id}
        row = await self._transactions.read(lambda c: c.execute(queries.select_snapshot, values).first())
        if row is None:
            raise SnapshotNotFound(f"There is no such snapshot: {state_id}")
        return snapshot_from_row(row)

    async def list_snapshots(self, tenant: TenantId) -> Sequence[Snapshot]:
        values = {"of_tenant": tenant}
        rows = await self._transactions.read(lambda c: c.execute(queries.select_snapshots, values).all())
        return [snapshot_from_row(row) for row in rows]

    async def count_snapshots(self, tenant: TenantId) -> int:
        return await self._count(queries.count_snapshots, tenant)

    async def delete_snapshot(self, tenant: TenantId, state_id: StateId, *, at: dt.datetime) -> bool:
        values = {"of_tenant": tenant, "state_id": state_id}

        def work(connection: sa.Connection) -> bool:
            row = connection.execute(queries.delete_snapshot, values).first()
            if row is None:
                return False
            record_destroyed(connection, snapshot_from_row(row), at)
            return True

        return await self._transactions.write(work, erases=True)

    async def snapshots_on_node(self, node_id: str) -> Sequence[Snapshot]:
        values = {"on_node": node_id}
        rows = await self._transactions.read(lambda c: c.execute(queries.select_snapshots_of_all, values).all())
        return [snapshot_from_row(row) for row in rows]

    async def sandbox_of_any_tenant(self, sandbox_id: SandboxId) -> Sandbox:
        values = {"sandbox_id": sandbox_id}
        row = await self._transactions.read(lambda c: c.execute(queries.select_sandbox_of_all, values).first())
        if row is None:
            raise _unknown(sandbox_id)
        return sandbox_from_row(row)

    async def set_network_policy(
        self,
        tenant: TenantId,
        sandbox_id: SandboxId,
        *,
        network: Network,
        allow_domains: Sequence[str] | None,
        report_only: bool,
    ) -> Sandbox:
        values = {
            "of_tenant": tenant,
            "sandbox_id": sandbox_id,
            "new_network": network.value,
            "new_allow_domains": None if allow_domains is None else list(allow_domains),
            "new_report_only": report_only,
        }
        found = await self._transactions.write(lambda c: set_network(c, values))
        if found is None:
            raise _unknown(sandbox_id)
        return found

    async def add_egress(self, records: Sequence[EgressRecord]) -> None:
        await self._transactions.write(lambda c: add_egress(c, records))

    async def list_egress(self, tenant: TenantId, sandbox_id: SandboxId, where: EgressFilter) -> Sequence[EgressRecord]:
        query = queries.select_egress(where)
        values = {"of_tenant": tenant, "of_sandbox": sandbox_id}
        await self.get_sandbox(tenant, sandbox_id)
        rows = await self._transactions.read(lambda c: c.execute(query, values).all())
        return [egress_from_row(row) for row in rows]

    async def traffic(self, tenant: TenantId, sandbox_id: SandboxId) -> Traffic:
        values = {"of_sandbox": sandbox_id}
        await self.get_sandbox(tenant, sandbox_id)
        row = await self._transactions.read(lambda c: c.execute(queries.select_traffic_of_all, values).first())
        return Traffic(0, 0, 0, 0) if row is None else traffic_from_row(row)

    async def prune_egress(self, before: dt.datetime, *, limit: int) -> int:
        values = {"before": before, "limit": limit}
        return await self._transactions.write(lambda c: c.execute(queries.prune_egress_of_all, values).rowcount)

    async def list_receipts(self, tenant: TenantId, *, subject: str | None, limit: int) -> Sequence[Receipt]:
        values = {"of_tenant": tenant, "subject": subject, "limit": limit}
        rows = await self._transactions.read(lambda c: c.execute(queries.select_receipts, values).all())
        return [receipt_from_row(row) for row in rows]

    async def add_key(self, key: ApiKey) -> None:
        await self._transactions.write(lambda c: c.execute(queries.insert_key, key_to_row(key)))

    async def find_key(self, digest: bytes) -> ApiKey | None:
        values = {"by_digest": digest}
        row = await self._transactions.read(lambda c: c.execute(queries.select_key_by_digest, values).first())
        return None if row is None else key_from_row(row)

    async def list_keys(self) -> Sequence[ApiKey]:
        rows = await self._transactions.read(lambda c: c.execute(queries.select_keys_of_all).all())
        return [key_from_row(row) for row in rows]

    async def revoke_key(self, key_id: KeyId, at: dt.datetime) -> ApiKey:
        values = {"key_id": key_id, "now": at}
        row = await self._transactions.write(lambda c: c.execute(queries.revoke_key, values).first())
        if row is None:
            raise NotFound(f"There is no key of that id: {key_id}")
        return key_from_row(row)

    async def find_idempotent(self, tenant: TenantId, key: str) -> tuple[bytes, SandboxId] | None:
        values = {"of_tenant": tenant, "by_key": key}
        row = await self._transactions.read(lambda c: c.execute(queries.select_idempotent, values).first())
        return None if row is None else (bytes(row.digest), SandboxId(row.sandbox_id))

    async def ping(self) -> None:
        await self._transactions.read(lambda c: c.execute(queries.ping).scalar())

    async def _select(
        self, query: sa.Select[Any] | sa.CompoundSelect[Any], values: dict[str, object]
    ) -> Sequence[Sandbox]:
        rows = await self._transactions.read(lambda c: c.execute(query, values).all())
        return [sandbox_from_row(row) for row in rows]

    async def _count(self, query: sa.Select[int], tenant: TenantId) -> int:
        return await self._transactions.read(lambda c: c.execute(query, {"of_tenant": tenant}).scalar_one())


class _NotAll(Exception):
    """Undoes a transaction that is to do all or nothing."""


def _unknown(sandbox_id: SandboxId) -> SandboxNotFound:
    return SandboxNotFound(f"There is no such sandbox: {sandbox_id}")
