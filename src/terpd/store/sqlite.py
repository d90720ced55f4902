"""The Store port on SQLite. Another engine differs in how it is opened and locked; the queries stay."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from terpd.model.errors import AlreadyExists, NotFound, PlanLimit, SandboxNotFound, StateConflict
from terpd.model.ids import KeyId, SandboxId, TenantId
from terpd.model.ports import ApiKey, Idempotency, SandboxFilter
from terpd.model.sandbox import FINAL, EndReason, Sandbox, Status, require_running
from terpd.store import queries
from terpd.store.engine import READ_THREADS, Transactions, sqlite_engine
from terpd.store.migrate import migrate
from terpd.store.rows import key_from_row, key_to_row, sandbox_from_row, sandbox_to_row

IDEMPOTENCY_KEPT = dt.timedelta(hours=24)


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


class SqliteStore:
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
            if max_live is None:
                connection.execute(queries.insert_sandbox, row)
            else:
                values = {**row, "of_tenant": sandbox.tenant, "max_live": max_live}
                if connection.execute(queries.insert_sandbox_below_limit, values).rowcount != 1:
                    raise PlanLimit(
                        "All sandboxes that this key may run at once are in use; terminate one or wait."
                        f" Limit: {max_live}",
                        fields={"limit": max_live},
                    )
            if pairs:
                connection.execute(queries.insert_metadata, pairs)
            if idempotency is not None:
                _record_key(connection, sandbox, idempotency)

        await self._transactions.write(work)

    async def forget_sandbox(self, sandbox_id: SandboxId) -> None:
        await self._transactions.write(lambda c: c.execute(queries.delete_starting, {"sandbox_id": sandbox_id}))

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
        self,
        sandbox_id: SandboxId,
        status: Status,
        *,
        at: dt.datetime,
        reason: EndReason | None = None,
        expires_at: dt.datetime | None = None,
        expired_by: dt.datetime | None = None,
    ) -> Sandbox | None:
        values = {
            "sandbox_id": sandbox_id,
            "new_expires_at": expires_at,
            "new_started_at": at if status is Status.RUNNING else None,
            "new_ended_at": at if status in FINAL else None,
            "new_end_reason": None if reason is None else reason.value,
            "expired_by": expired_by,
        }

        def work(connection: sa.Connection) -> Any:
            row = connection.execute(queries.move_to[status], values).first()
            if row is not None and reason is EndReason.START_FAILED:
                connection.execute(queries.delete_idempotent_of_sandbox, {"sandbox_id": sandbox_id})
            return row

        row = await self._transactions.write(work)
        return None if row is None else sandbox_from_row(row)

    async def set_lease(self, tenant: TenantId, sandbox_id: SandboxId, expires_at: dt.datetime) -> Sandbox:
        scope = {"of_tenant": tenant, "sandbox_id": sandbox_id}

        def work(connection: sa.Connection) -> Sandbox:
            row = connection.execute(queries.update_lease, {**scope, "new_expires_at": expires_at}).first()
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

    async def count_live(self, tenant: TenantId) -> int:
        values = {"of_tenant": tenant}
        return await self._transactions.read(lambda c: int(c.execute(queries.count_live, values).scalar_one()))

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

    async def _select(self, query: sa.Select[Any], values: dict[str, object]) -> Sequence[Sandbox]:
        rows = await self._transactions.read(lambda c: c.execute(query, values).all())
        return [sandbox_from_row(row) for row in rows]


def _record_key(connection: sa.Connection, sandbox: Sandbox, idempotency: Idempotency) -> None:
    """Old keys go when a new one comes: only who uses them pays, and the table stays a day long."""
    connection.execute(queries.delete_idempotent_before, {"limit": sandbox.created_at - IDEMPOTENCY_KEPT})
    row = {
        "tenant": sandbox.tenant,
        "key": idempotency.key,
        "digest": idempotency.digest,
        "sandbox_id": sandbox.id,
        "created_at": sandbox.created_at,
    }
    try:
        connection.execute(queries.insert_idempotent, row)
    except exc.IntegrityError as error:
        raise AlreadyExists("Another request with this Idempotency-Key was faster; repeat it") from error


def _unknown(sandbox_id: SandboxId) -> SandboxNotFound:
    return SandboxNotFound(f"There is no such sandbox: {sandbox_id}")
