"""`terpd state`: take a paused sandbox or a named snapshot from one server to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from terpd.daemon.config import Config, ConfigError, load
from terpd.daemon.data_dir import only_one
from terpd.daemon.node import artifact_store, instance_name, open_workshop
from terpd.daemon.server_keys import load_keys
from terpd.model.errors import NotFound, TerpError
from terpd.node.snapshot.pins import Pins
from terpd.node.snapshot.state import StateManifest, find_template
from terpd.node.template.progress import megabytes

if TYPE_CHECKING:
    from terpd.store.sqlite import SqliteStore

app = typer.Typer(help="Take saved states from one server to another.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="As of `terpd serve`; also TERP_DATA_DIR")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file, as of `terpd serve`")]

_T = TypeVar("_T")


@app.command("export")
def export_command(
    subject: Annotated[str, typer.Argument(metavar="ID", help="A paused sandbox (sbx_…) or a named snapshot (snap_…)")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty or does not exist")],
    *,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """
    Copy a paused sandbox or a named snapshot into a folder, also while the server runs.

    The folder is as encrypted as the original: whoever imports it needs the server key that wrapped its data key. It
    lives on when the original is terminated or deleted, and no deletion receipt covers it.

    A sandbox stays here, paused. Once its copy is imported, resume only one of the two: they are the same to all they
    speak to. Terminate the other.

    Example: terpd state export sbx_01J… /mnt/usb/sandbox
    """
    from terpd.daemon.state_transfer import export_state  # noqa: PLC0415  half a second of imports that few need

    settings = _settings(data_dir, config)

    async def work(store: SqliteStore) -> int:
        return await export_state(
            subject, directory, store=store, artifacts=artifact_store(settings), node_id=settings.node_id
        )

    stored_bytes = _run(settings, work)
    typer.echo(f"Exported {subject}, {megabytes(stored_bytes)}: {directory}")


@app.command("import")
def import_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `terpd state export` made")],
    *,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """
    Take an exported sandbox or snapshot into this server, under the id and for the tenant that it has.

    Stop the server before; its sandboxes run on. What must be here: the server key that wrapped the data key (add it to
    key_file, below the own one), and the very template snapshot that it was made from, with the same QEMU, processor
    and kernel; copy `templates/`, `snapshots/` and `kernels/` of TERP_HOME to get it. The folder stays as it is.

    Example: terpd state import /mnt/usb/sandbox
    """
    from terpd.daemon.state_transfer import import_state  # noqa: PLC0415  as above

    settings = _settings(data_dir, config)

    async def work(store: SqliteStore) -> str:
        keys = load_keys(settings)
        snapshots = (await open_workshop(settings)).snapshots
        pins = Pins(settings.home, instance_name(settings.data_dir))

        @asynccontextmanager
        async def holding(manifest: StateManifest) -> AsyncIterator[None]:
            async with pins.holding(await asyncio.to_thread(find_template, snapshots, manifest)):
                yield

        artifacts = artifact_store(settings)
        await artifacts.open()
        return await import_state(
            directory,
            store=store,
            artifacts=artifacts,
            keys=keys,
            config=settings,
            holding_template=holding,
        )

    def locked() -> str:
        with only_one(settings.data_dir):
            return _run(settings, work, must_exist=False)

    typer.echo(f"Imported {_explained(locked)}; it is there at the next start of the server")


def _settings(data_dir: Path | None, file: Path | None) -> Config:
    return _explained(lambda: load(file=file, flags={"data_dir": data_dir}))


def _run(config: Config, work: Callable[[SqliteStore], Awaitable[_T]], *, must_exist: bool = True) -> _T:
    from terpd.store import open_sqlite  # noqa: PLC0415  as above

    async def run() -> _T:
        if must_exist and not config.database.exists():
            raise NotFound(f"No server has its data here: {config.data_dir}; name its folder with --data-dir")
        store = await open_sqlite(config.database)
        try:
            return await work(store)
        finally:
            await store.close()

    return _explained(lambda: asyncio.run(run()))


def _explained(act: Callable[[], _T]) -> _T:
    """Turn what the user can understand into a message and exit code 1."""
    try:
        return act()
    except (ConfigError, TerpError, OSError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error
