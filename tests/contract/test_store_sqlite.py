"""What is SQLite's own: the file, its migrations, several processes."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from support.sandboxes import NOON, TENANT, make_sandbox
from support.snapshots import make_snapshot
from support.until import until

from terpd.model.errors import Unavailable
from terpd.model.network import EgressFilter
from terpd.model.ports import SandboxFilter
from terpd.model.sandbox import Status
from terpd.store import open_sqlite, queries
from terpd.store.engine import sqlite_engine
from terpd.store.migrate import MIGRATIONS
from terpd.store.schema import REVISION, metadata

LATER = NOON + dt.timedelta(seconds=5)


async def test_records_survive_a_reopening(tmp_path: Path) -> None:
    """What was recorded is there for the next process, and opening twice migrates once."""
    path = tmp_path / "sub" / "terp.db"
    store = await open_sqlite(path)
    sandbox = make_sandbox()
    await store.add_sandbox(sandbox, max_live=None)
    await store.close()
    store = await open_sqlite(path)
    assert await store.get_sandbox(TENANT, sandbox.id) == sandbox
    await store.close()


async def test_two_stores_share_one_file(tmp_path: Path) -> None:
    """The operator's commands work on the store while the server runs: each sees the other's commits."""
    server, command = await open_sqlite(tmp_path / "t.db"), await open_sqlite(tmp_path / "t.db")
    sandbox = make_sandbox()
    await server.add_sandbox(sandbox, max_live=None)
    assert await command.get_sandbox(TENANT, sandbox.id) == sandbox
    await command.forget_sandbox(sandbox.id)
    assert await server.count_on_node(TENANT) == 0
    await server.close()
    await command.close()


async def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """Others on the host cannot read the records."""
    store = await open_sqlite(tmp_path / "t.db")
    await store.add_sandbox(make_sandbox(), max_live=None)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}  # noqa: ASYNC240
    await store.close()
    assert set(modes.values()) == {0o600}, modes


async def test_newer_database_is_refused(tmp_path: Path) -> None:
    """A release does not touch what it does not know."""
    path = tmp_path / "t.db"
    await (await open_sqlite(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(Unavailable, match="newer release"):
        await open_sqlite(path)


async def test_migrations_lead_to_the_schema(tmp_path: Path) -> None:
    """The last migration is the revision the code names, and what they make is what the code declares."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    await (await open_sqlite(tmp_path / "t.db")).close()
    engine = sqlite_engine(tmp_path / "t.db", writes=True, connections=1)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": _same_storage})
        difference = compare_metadata(context, metadata)
    engine.dispose()
    assert difference == []


def _same_storage(
    context: object, inspected: object, declared: object, on_disk: sa.types.TypeEngine[object], in_code: object
) -> bool:
    """Compare what a declared type is stored as; True means they differ."""
    stored = in_code.impl if isinstance(in_code, sa.types.TypeDecorator) else in_code
    if isinstance(stored, sa.Boolean):
        return not isinstance(on_disk, sa.Boolean)
    return on_disk._type_affinity is not stored._type_affinity  # type: ignore[attr-defined]


_0001_SANDBOX = """
    INSERT INTO sandboxes (id, tenant, status, template, size, vcpus, memory_mib, network, region, node_id, created_at,
        expires_at, on_timeout, auto_resume, metadata, started_at)
    VALUES (:id, 'acme', :status, 'python-3.12', 'small', 1, 1024, 'off', 'local', 'node-a', :created_at, :expires_at,
        'kill', 0, '{"a": "b"}', :started_at)
"""


async def test_database_of_the_first_release_is_taken_over(tmp_path: Path) -> None:
    """Its sandboxes run on, with all that belongs to them; they have no data key, and end without a receipt."""
    path = tmp_path / "t.db"
    _migrated_to("0001", path)
    old = replace(make_sandbox(status=Status.RUNNING, lease_s=90, metadata={"a": "b"}), started_at=LATER)
    row = {"id": old.id, "status": old.status, "created_at": _us(NOON), "expires_at": _us(old.expires_at) + 400_000}
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(_0001_SANDBOX, {**row, "started_at": _us(LATER)})
        connection.execute("INSERT INTO sandbox_metadata VALUES (?, 'a', 'b')", [old.id])
        connection.execute("INSERT INTO idempotency_keys VALUES ('acme', 'once', x'00', ?, 0)", [old.id])
    store = await open_sqlite(path)
    found = await store.get_sandbox(TENANT, old.id)
    assert found == replace(
        old, expires_at=old.expires_at + dt.timedelta(milliseconds=400), lease_s=90, window_began_at=LATER
    )
    assert await store.list_sandboxes(TENANT, SandboxFilter(metadata={"a": "b"})) == [found]
    assert await store.find_idempotent(TENANT, "once") == (b"\0", old.id)
    await store.set_status(old.id, Status.TERMINATED, at=LATER)
    assert await store.list_receipts(TENANT, subject=None, limit=10) == []
    await store.close()


def test_migrations_can_be_undone(tmp_path: Path) -> None:
    """Down to the first release and up again leads to the same schema, and keeps what both have."""
    path = tmp_path / "t.db"
    _migrated_to("head", path)
    before = _schema(path)
    _migrated_to("0001", path, undo=True)
    assert _schema(path) != before
    _migrated_to("head", path)
    assert _schema(path) == before


async def test_destroyed_keys_are_nowhere_in_the_files(tmp_path: Path) -> None:
    """Neither in a free page nor in the log, while the server runs: who copies the files later finds no key."""
    store = await open_sqlite(tmp_path / "t.db")
    sealed = os.urandom(80)
    for _ in range(20):
        await store.add_sandbox(make_sandbox(), max_live=None)
    sandbox = replace(make_sandbox(), key_id="dk_1", sealed_key=b"sk_1:" + sealed)
    await store.add_sandbox(sandbox, max_live=None)
    snapshot = make_snapshot(sealed_key=b"sk_1:" + sealed)
    await store.add_snapshot(snapshot, max_named=None)
    assert sealed in _bytes_of(tmp_path)
    await store.set_status(sandbox.id, Status.FAILED, at=LATER)
    await store.delete_snapshot(TENANT, snapshot.id, at=LATER)
    await until(lambda: sealed not in _bytes_of(tmp_path))
    await store.close()


async def test_reaper_reads_only_what_is_due(tmp_path: Path) -> None:
    """Both kinds of ends are found in their index, whatever else is recorded."""
    await (await open_sqlite(tmp_path / "t.db")).close()
    engine = sqlite_engine(tmp_path / "t.db", writes=False, connections=1)
    with engine.connect() as connection:
        for query in (queries.select_expired_of_all, queries.select_next_expiry_of_all):
            text = str(query.compile(dialect=engine.dialect, compile_kwargs={"render_postcompile": True}))
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("x",) * text.count("?")).all()
            searches = [step.detail for step in plan if "sandboxes" in step.detail]
            assert len(searches) == 2
            assert "ix_sandboxes_node_id_status_expires_at (node_id=? AND status=?" in searches[0]
            assert "ix_sandboxes_node_id_status_paused_expires_at (node_id=? AND status=?" in searches[1]
    engine.dispose()


async def test_connections_are_found_in_an_index(tmp_path: Path) -> None:
    """A page of a sandbox's, and what is too old, however many there are of others."""
    await (await open_sqlite(tmp_path / "t.db")).close()
    engine = sqlite_engine(tmp_path / "t.db", writes=False, connections=1)
    page = queries.select_egress(EgressFilter(before="x"))
    with engine.connect() as connection:
        plans = []
        for query in (page, queries.prune_egress_of_all, queries.count_egress_of_all):
            text = str(query.compile(dialect=engine.dialect))
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (1,) * text.count("?")).all()
            plans.append("\n".join(step.detail for step in plan))
    engine.dispose()
    assert "ix_egress_sandbox_id_id (sandbox_id=? AND id<?)" in plans[0]
    assert "ix_egress_at (at<?)" in plans[1]
    assert "ix_egress_sandbox_id_id (sandbox_id=?)" in plans[2]
    assert not any("SCAN egress" in plan or "TEMP B-TREE" in plan for plan in plans)


def _us(time: dt.datetime) -> int:
    return round(time.timestamp() * 1e6)


def _migrated_to(revision: str, path: Path, *, undo: bool = False) -> None:
    engine = sqlite_engine(path, writes=True, connections=1)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        (command.downgrade if undo else command.upgrade)(config, revision)
    engine.dispose()


def _schema(path: Path) -> dict[str, set[str]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        ]
        return {
            table: {str(column) for column in connection.execute(f"PRAGMA table_info({table})")} for table in tables
        }


def _bytes_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())
