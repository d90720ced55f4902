"""`terpd key`: make, list and revoke API keys, directly in the store and also while the server runs."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from terpd.control.clock import SystemClock
from terpd.control.keys import DEFAULT_SCOPES, Keys
from terpd.daemon.config import ConfigError, load
from terpd.model.errors import TerpError
from terpd.model.ports import ApiKey

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="As of `terpd serve`; also TERP_DATA_DIR")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file, as of `terpd serve`")]

_T = TypeVar("_T")


@app.command("create")
def create(
    *,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    name: Annotated[str, typer.Option(help="What the key is for")] = "default",
    tenant: Annotated[str, typer.Option(help="Whose sandboxes it reaches")] = "default",
    scope: Annotated[
        list[str] | None, typer.Option(help="sandboxes:read, sandboxes:write, metrics:read; the first two by default")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Valid for so many days; without end by default")] = None,
) -> None:
    """
    Make a key and print it, this once. Example: terpd key create --name ci --days 90
    """

    async def work(keys: Keys) -> str:
        lifetime = None if days is None else dt.timedelta(days=days)
        secret, _ = await keys.create(tenant=tenant, name=name, scopes=scope or DEFAULT_SCOPES, lifetime=lifetime)
        return secret

    typer.echo(_with_keys(data_dir, config, work))


@app.command("ls")
def ls(*, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """List the keys of all tenants; secrets are not known any more."""

    async def work(keys: Keys) -> list[ApiKey]:
        return list(await keys.list())

    table = Table("ID", "TENANT", "NAME", "KEY", "SCOPES", "CREATED", "STATE", box=None)
    for column in table.columns:
        column.no_wrap = True  # ids are there to be copied
    now = dt.datetime.now(dt.UTC)
    for key in _with_keys(data_dir, config, work):
        table.add_row(
            key.id,
            key.tenant,
            key.name,
            f"{key.prefix}…",
            " ".join(sorted(key.scopes)),
            f"{key.created_at:%Y-%m-%d}",
            _state(key, now),
        )
    # Wider than the terminal is better than cut off: what does not fit, the terminal wraps.
    Console(width=max(Console().width, 240)).print(table)


@app.command("revoke")
def revoke(key_id: str, *, data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """
    Make a key invalid from the next request on. Example: terpd key revoke key_01J…
    """

    async def work(keys: Keys) -> ApiKey:
        return await keys.revoke(key_id)

    key = _with_keys(data_dir, config, work)
    typer.echo(f"Revoked: {key.id} ({key.name})")


def _with_keys(data_dir: Path | None, file: Path | None, work: Callable[[Keys], Awaitable[_T]]) -> _T:
    from terpd.store import open_sqlite  # noqa: PLC0415  half a second of imports that no other command needs

    async def run() -> _T:
        store = await open_sqlite(load(file=file, flags={"data_dir": data_dir}).database)
        try:
            return await work(Keys(store, SystemClock()))
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except ConfigError as error:
        raise typer.Exit(_complain(str(error))) from error
    except TerpError as error:
        raise typer.Exit(_complain(error.detail)) from error


def _complain(message: str) -> int:
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    return 1


def _state(key: ApiKey, now: dt.datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at is None:
        return "valid"
    return f"expired {key.expires_at:%Y-%m-%d}" if key.expires_at <= now else f"until {key.expires_at:%Y-%m-%d}"
