"""Brings a database to the schema this release speaks, at start-up and in one transaction."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from terpd.model.errors import Unavailable
from terpd.store.schema import REVISION

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(engine: sa.Engine) -> None:
    """
    Apply the migrations that are missing. Repeatable; a second process waits for the first one's transaction.

    If the process dies midway: the transaction is undone, and the next start does it again.

    Raises:
        Unavailable: The database cannot be opened, or a newer release has written it.
    """
    try:
        with engine.begin() as connection:
            found = _revision(connection)
            if found == REVISION:
                return
            if found is not None and not any(MIGRATIONS.glob(f"versions/{found}_*.py")):
                raise Unavailable(
                    "The database was written by a newer release of terpd; start that one."
                    f" Its schema: {found}, known here: {REVISION}"
                )
            _upgrade(connection)
    except exc.OperationalError as error:
        raise Unavailable(f"The database cannot be opened: {error.orig}") from error


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command  # noqa: PLC0415 - costs 0.2 s, and most starts have nothing to migrate
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.upgrade(config, "head")
