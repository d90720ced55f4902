"""
Measure Terp against its floors: `python -m bench [--template python-3.12-bare] [--rounds 20] [--json]`.

Every row is a ratio of medians taken in one run, floor and subject in turn, on the real server and real machines.
Goals are those of SPECIFICATION.md. A missed goal is printed as such; the exit code stays 0, for a machine under
other load misses them too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from bench.measure import Bench
from bench.raw_channel import CONSOLE_SET
from bench.rows import Row
from terpd.daemon.config import load
from terpd.daemon.node import AGENT, open_workshop
from terpd.node.template.initrd import ensure_initrd
from terpd.node.vmm.definition import Boot, kernel_arguments
from terpd.node.vmm.tsc import host_khz


def show(rows: Sequence[Row]) -> None:
    table = Table(title="Terp against its floors (medians)", header_style="bold")
    for heading in ("path ÷ floor", "path", "floor", "ratio", "goal", ""):
        table.add_column(heading, justify="left" if heading == "path ÷ floor" else "right")
    for each in rows:
        mark = "[green]met[/]" if each.met else "[red]missed[/]"
        table.add_row(
            each.name,
            f"{each.value:.1f} {each.unit}",
            f"{each.floor:.1f} {each.unit}",
            f"{each.ratio:.2f}",
            each.goal,
            mark,
        )
    Console().print(table)


async def run(template: str, rounds: int) -> list[Row]:
    config = load()
    workshop = await open_workshop(config)
    snapshot = await workshop.snapshot(template, "small")
    accel = workshop.acceleration.name
    boot = Boot(
        kernel=str(snapshot.image.kernel.vmlinux),
        initrd=str(ensure_initrd(config.home, snapshot.image.kernel, AGENT)),
        cmdline=kernel_arguments(accel, host_khz(config.home)),
        console_set=CONSOLE_SET,
    )
    return await Bench(snapshot, accel, boot, template, rounds).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Terp against its floors.")
    parser.add_argument("--template", default="python-3.12-bare", help="a built template (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=20, help="pairs of floor and subject a row (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    arguments = parser.parse_args()
    rows = asyncio.run(run(arguments.template, arguments.rounds))
    if arguments.json:
        print(json.dumps([asdict(each) for each in rows], indent=2))
    else:
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
