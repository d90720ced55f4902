"""`terpd`: the operator's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from terpd import __version__
from terpd.daemon import doctor_command, key_command, state_command, template_command
from terpd.daemon.config import ConfigError, load, parse_pool
from terpd.daemon.node import drop_snapshots, take_snapshot
from terpd.daemon.telemetry import configure_logging
from terpd.model.errors import TerpError

app = typer.Typer(
    name="terpd",
    help="Sandboxes for AI agents on this machine: each a real virtual machine behind one API call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(key_command.app, name="key")
app.add_typer(state_command.app, name="state")
app.add_typer(template_command.create_app(take_snapshot, drop_snapshots), name="template")
app.command("doctor")(doctor_command.doctor)


@app.command("serve")
def serve_command(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one (7070)")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Records and machines; also TERP_DATA_DIR")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in TOML; flags and TERP_* go before it")] = None,
    pool: Annotated[str | None, typer.Option(help="Keep machines warm: python-3.12/small=2,debian-12/small=1")] = None,
    dev: Annotated[
        bool, typer.Option("--dev", help="Print an API key in the ready line; terminate all sandboxes at the end")
    ] = False,
) -> None:
    """
    Serve the API in the foreground.

    Prints one JSON line on standard output when it serves; logs go to standard error. SIGTERM stops it: sandboxes
    run on and are adopted by the next start, unless --dev.

    Example: terpd serve --port 7070 --pool python-3.12/small=2
    """
    from terpd.daemon.serve import serve  # noqa: PLC0415  half a second of imports that no other command needs

    try:
        flags = {"host": host, "port": port, "data_dir": data_dir, "pool": None if pool is None else parse_pool(pool)}
        settings = load(file=config, flags=flags)
        configure_logging(level=settings.log_level, as_json=settings.log_json)
        uvloop.run(serve(settings, dev=dev))
    except (ConfigError, TerpError, OSError) as error:
        typer.echo(f"terpd: {error}", err=True)
        raise typer.Exit(1) from error


@app.command("version")
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
