"""
A SQL engine behind threads: one transaction is one hop from the event loop and back.

An async driver would hop for every cursor, fetch and commit instead: a recorded create took 0.9 ms that way and
takes 0.25 ms this way. Writes have one thread and one connection, so they queue here in order instead of
contending for SQLite's write lock; reads have their own connections and see the last commit (WAL).

What was destroyed must not be found in the files either: SQLite overwrites freed space, and the log, which keeps old
pages until it is written anew, is emptied after a transaction that erases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from terpd.model.errors import Internal, TerpError, Unavailable

BUSY_TIMEOUT_MS = 5000  # another process (`terpd key`) may hold the write lock for its one short transaction
READ_THREADS = 2

_T = TypeVar("_T")


def sqlite_engine(path: Path, *, writes: bool, connections: int) -> sa.Engine:
    """
    An engine whose connections are set up for concurrent use of one file.

    A writing engine takes the write lock when its transaction begins: taking it later could fail with a snapshot
    that has become old. A reading one commits every statement by itself.
    """
    engine = sa.create_engine(
        f"sqlite:///{path}",
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False},
        **({} if writes else {"isolation_level": "AUTOCOMMIT"}),
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        if writes:
            connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        # Survives the death of this process at any point; a power cut may lose the last commits, never consistency.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")  # overwrite what is freed
        cursor.close()

    if writes:

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def empty_log(writer: sa.Engine) -> None:
    """Move what SQLite's log holds to the database file and truncate it; a reader in the way leaves it to the next."""
    connection = writer.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")  # not possible in a transaction
    finally:
        connection.close()


class Transactions:
    """Runs functions of a connection, each as one transaction, in threads."""

    def __init__(self, writer: sa.Engine, reader: sa.Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._write_thread = ThreadPoolExecutor(1, "store-write")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, "store-read")
        self._newest_erasure: object = None

    async def write(self, work: Callable[[sa.Connection], _T], *, erases: bool = False) -> _T:
        """
        Run *work* in a write transaction; an error of its own undoes it.

        A caller that is cancelled does not undo it: the transaction then completes or fails unseen.

        Args:
            erases: What it deletes is to vanish from the files: soon after, at the latest at the next start.

        Raises:
            Unavailable: The database is locked for too long, full or gone.
        """
        done = asyncio.get_running_loop().run_in_executor(self._write_thread, self._write, work)
        if erases:
            self._newest_erasure = erasure = object()
            self._write_thread.submit(self._erase, erasure)
        return await done

    async def read(self, work: Callable[[sa.Connection], _T]) -> _T:
        """As `write`; each statement of *work* sees the latest commit by itself."""
        return await asyncio.get_running_loop().run_in_executor(self._read_threads, self._read, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _write(self, work: Callable[[sa.Connection], _T]) -> _T:
        try:
            with self._writer.begin() as connection:
                return work(connection)
        except exc.SQLAlchemyError as error:
            raise _translated(error) from error

    def _erase(self, erasure: object) -> None:
        if erasure is self._newest_erasure:  # else there is one behind this one that does for both
            empty_log(self._writer)

    def _read(self, work: Callable[[sa.Connection], _T]) -> _T:
        try:
            with self._reader.connect() as connection:
                return work(connection)
        except exc.SQLAlchemyError as error:
            raise _translated(error) from error

    def _close(self) -> None:
        self._write_thread.shutdown()
        self._read_threads.shutdown()
        self._writer.dispose()
        self._reader.dispose()


def _translated(error: exc.SQLAlchemyError) -> TerpError:
    # The driver's own text goes to the log, without the statement's values.
    context = {"error": str(error.orig) if isinstance(error, exc.DBAPIError) else type(error).__name__}
    if isinstance(error, exc.OperationalError | exc.TimeoutError):
        return Unavailable("The server's database does not answer; try again", context=context)
    return Internal("The server's database refused a statement", context=context)
