"""`terpd template build | ls | rm`: making, showing and removing the templates of this host."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from terpd.daemon.config import default_home
from terpd.model.errors import StateConflict, TemplateNotFound, TerpError
from terpd.node.template.builder import build
from terpd.node.template.catalog import Catalog, Image, record_of
from terpd.node.template.progress import Progress, megabytes
from terpd.node.template.trust import DEFAULT_AUTHORITIES

_RECIPES = Path(__file__).resolve().parents[3] / "images"  # of a source tree, which is how Terp is installed


class TakeSnapshot(Protocol):
    """
    Boots an image in a size, warms it up and saves it, with *network* a second time with a network device; does nothing
    when that was done. Raises TerpError.
    """

    def __call__(self, home: Path, image: Image, size: str, progress: Progress, *, network: bool) -> None: ...


class DropSnapshots(Protocol):
    """Removes all snapshots of a template. Raises StateConflict while a machine runs from one."""

    def __call__(self, home: Path, template: str, *, force: bool) -> None: ...


Home = Annotated[
    Path,
    typer.Option(envvar="TERP_HOME", default_factory=default_home, help="Where kernels, templates and snapshots live."),
]


def create_app(take_snapshot: TakeSnapshot, drop_snapshots: DropSnapshots) -> typer.Typer:
    """The commands, given how this host takes and drops snapshots."""
    app = typer.Typer(help="Make, show and remove templates.", no_args_is_help=True)

    @app.command("build")
    def build_template(
        name: Annotated[str, typer.Argument(help="A recipe's name, e.g. python-3.12.")],
        *,
        size: Annotated[list[str] | None, typer.Option(help="Also take the snapshot of this size; repeatable.")] = None,
        network: Annotated[
            bool, typer.Option("--network/--no-network", help="Snapshots for sandboxes with a network, too.")
        ] = True,
        force: Annotated[bool, typer.Option("--force", help="Make all anew, with packages current now.")] = False,
        recipes: Annotated[Path, typer.Option(envvar="TERP_RECIPES", help="Folder of NAME.toml files.")] = _RECIPES,
        authorities: Annotated[
            Path, typer.Option(envvar="TERP_AUTHORITIES", help="Certificates that guests trust besides Debian's.")
        ] = DEFAULT_AUTHORITIES,
        home: Home,
    ) -> None:
        """
        Build a template; what is there already is kept.

        Example: terpd template build python-3.12 --size small
        """
        began = time.monotonic()
        with _errors(), _Shown() as progress:
            image = build(name, home=home, recipes=recipes, force=force, progress=progress, authorities=authorities)
            for wanted in size or []:
                take_snapshot(home, image, wanted, progress, network=network)
        seconds = time.monotonic() - began
        typer.echo(f"{image.template} {image.digest}, {megabytes(image.size_bytes)}, in {seconds:.1f} s: {image.root}")

    @app.command("ls")
    def list_templates(
        *,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False,
        home: Home,
    ) -> None:
        """
        Show the templates that are built here.

        Example: terpd template ls --json
        """
        images = Catalog(home).list()
        if as_json:
            typer.echo(json.dumps([record_of(image) for image in images], indent=2))
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("template", "digest", "on disk", "built", "description"):
            table.add_column(heading, no_wrap=heading != "description")
        for image in images:
            built = image.built_at.astimezone().strftime("%Y-%m-%d %H:%M")
            size = megabytes(image.size_bytes)
            table.add_row(image.template, image.digest, size, built, escape(image.description))
        Console().print(table if images else "No template is built here. Build one: terpd template build python-3.12")

    @app.command("rm")
    def remove_template(
        name: Annotated[str, typer.Argument(help="A built template's name.")],
        *,
        force: Annotated[
            bool, typer.Option("--force", help="Also if paused sandboxes or snapshots need it: they are lost then.")
        ] = False,
        home: Home,
    ) -> None:
        """
        Remove a template's images and snapshots, unless a server on this host needs them.

        Example: terpd template rm python-3.12-bare
        """
        with _errors():
            catalog = Catalog(home)
            if catalog.find(name) is None:
                raise TemplateNotFound(f"Template {name} is not built here; `terpd template ls` shows what is")
            if not force and (servers := catalog.needed_by(name)):
                raise StateConflict(
                    f"Paused sandboxes, snapshots or machines of {len(servers)} server(s) on this host need template"
                    f" {name} (instances {', '.join(servers)}). Terminate and delete those first, or give --force:"
                    " then what is saved can never be resumed"
                )
            drop_snapshots(home, name, force=force)
            catalog.remove(name, force=force)
        typer.echo(f"Removed {name}")

    return app


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what the user can understand into a message and exit code 1."""
    try:
        yield
    except TerpError as error:
        typer.echo(f"Error: {error.detail}", err=True)
        raise typer.Exit(1) from error


class _Shown:
    """Progress on standard error: a line for each step when it ends, and on a terminal the one that runs."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._running: list[str] = []
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._status is not None:
            self._status.stop()
        sys.stderr.flush()

    def started(self, step: str) -> None:
        self._running.append(step)
        self._show()

    def finished(self, step: str, seconds: float, note: str) -> None:
        self._running.remove(step)
        self._console.print(f"{seconds:7.1f} s  {escape(step)}{escape(f' ({note})' if note else '')}", soft_wrap=True)
        self._show()

    def _show(self) -> None:
        if self._status is not None and self._running:
            self._status.update(escape(self._running[-1]))
