"""`terp top`, `terp usage`: what sandboxes use."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from terp import Metrics, Sandbox, SandboxNotFound, StateConflict, usage
from terp.cli import options
from terp.cli.terminal import printable, tell_json, tell_table

if TYPE_CHECKING:
    from rich.table import Table

HEAD = ("ID", "STATUS", "CORES", "CPU", "MEMORY", "OF", "CPU TIME", "GB·S")
Day = Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")]


def top(
    sandbox_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print it once, as when stdout is no terminal.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write it once, as JSON with all samples.")] = False,
) -> None:
    """
    Show what running sandboxes use, the busiest first, until interrupted.

    CPU is of all the processors that a sandbox has.

    Example: terp top --once
    """
    if as_json:
        tell_json(_metrics(sandbox_id))
    elif once or not sys.stdout.isatty():
        tell_table(HEAD, [_row(metrics) for metrics in _metrics(sandbox_id)])
    else:
        _live(sandbox_id, interval)


def consumed(*, since: Day = None, until: Day = None, as_json: options.AsJson = False) -> None:
    """
    Print what all your sandboxes used, by day (UTC), in the last 30 days or from --since to --until.

    Example: terp usage --since 2026-11-01
    """
    found = usage(since and since.date(), until and until.date())
    if as_json:
        tell_json(found)
        return
    rows = [(day.day.isoformat(), f"{day.cpu_seconds:.1f}", f"{day.gb_seconds:.1f}") for day in found.days]
    tell_table(("DAY", "CPU SECONDS", "GB SECONDS"), [*rows, ("total", *_total(found.cpu_seconds, found.gb_seconds))])


def _total(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.1f}" for value in values)


def _live(sandbox_id: str | None, interval: float) -> None:
    from rich.live import Live  # noqa: PLC0415 - takes longer to load than most commands run

    with Live(_table(_metrics(sandbox_id)), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(_table(_metrics(sandbox_id)), refresh=True)


def _table(found: Sequence[Metrics]) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*HEAD, box=None)
    for metrics in found:
        table.add_row(*(Text(printable(cell)) for cell in _row(metrics)))
    return table


def _metrics(sandbox_id: str | None) -> list[Metrics]:
    if sandbox_id:
        return [Sandbox.get(sandbox_id).metrics()]
    found = []
    for sandbox in Sandbox.list(status="running"):
        try:
            found.append(sandbox.metrics())
        except (SandboxNotFound, StateConflict):  # noqa: PERF203 - it has ended in between
            continue
    return sorted(found, key=lambda metrics: metrics.cores_used or 0, reverse=True)


def _row(metrics: Metrics) -> tuple[str, ...]:
    return (
        metrics.sandbox_id,
        metrics.status,
        f"{metrics.cores:g}",
        "-" if metrics.cpu_percent is None else f"{metrics.cpu_percent:.0f} %",
        "-" if metrics.memory_bytes is None else f"{metrics.memory_bytes / 2**20:.0f} MiB",
        f"{metrics.memory_limit_bytes / 2**20:.0f} MiB",
        f"{metrics.cpu_seconds:.1f} s",
        f"{metrics.gb_seconds:.1f}",
    )
