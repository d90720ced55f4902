"""`terpd doctor`: what this host can and cannot do, as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from terpd.daemon.check import Check, Level
from terpd.daemon.config import ConfigError, load
from terpd.daemon.doctor import examine

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(
    *,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file, as of `terpd serve`")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs")] = False,
) -> None:
    """
    Check what this host can do, and say what to do about what it cannot. Exit code 1 if no sandbox can start.

    Example: terpd doctor --json
    """
    try:
        checks = asyncio.run(examine(load(file=config)))
    except ConfigError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _show(checks)
    if any(check.level is Level.FAIL for check in checks):
        raise typer.Exit(1)


def _show(checks: Sequence[Check]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("check", "", "found, and what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        advice = f"\n→ {escape(check.advice)}" if check.advice else ""
        mark = f"[{_COLOURS[check.level]}]{check.level}[/]"
        table.add_row(check.name, mark, escape(check.found) + advice)
    Console().print(table)
