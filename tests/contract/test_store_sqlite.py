"""What is SQLite's own: the file, its migrations, several processes."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from support.sandboxes import TENANT, make_sandbox

from terpd.model.errors import Unavailable
from terpd.store import open_sqlite
from terpd.store.engine import sqlite_engine
from terpd.store.migrate import MIGRATIONS
from terpd.store.schema import REVISION, metadata


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
