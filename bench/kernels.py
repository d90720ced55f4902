"""
Measure `run_code("1 + 1")` against a call that only reaches the guest agent: `python -m bench.kernels [--rounds 5]`.

The first run of a sandbox, which also brings its environment to the kernels, and those that follow; both over HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable
from dataclasses import asdict

from terp import AsyncSandbox, AsyncTerp

from bench.__main__ import show
from bench.rows import Row, at_most
from bench.server import server

_CODE = "1 + 1"
_MORE = 5  # runs behind the first, in each sandbox


async def _timed(act: Awaitable[object]) -> float:
    began = time.monotonic()
    await act
    return (time.monotonic() - began) * 1000


async def measure(rounds: int) -> list[Row]:
    first, more, floors = [], [], []
    with server() as at:
        async with AsyncTerp(api_key=at.api_key, base_url=at.url, timeout=600) as client:
            for number in range(rounds + 1):
                sandbox = await AsyncSandbox.create(template="code-interpreter", client=client)
                await sandbox.files.exists("/")
                reached = [await _timed(sandbox.files.exists("/")) for _ in range(_MORE)]
                began = await _timed(sandbox.run_code(_CODE))
                went_on = [await _timed(sandbox.run_code(_CODE)) for _ in range(_MORE)]
                await sandbox.terminate()
                if number:  # the first sandbox warms the page cache
                    floors += reached
                    first.append(began)
                    more += went_on
    return [
        at_most(40, "first run_code ÷ a call to the agent", first, floors, "ms"),
        at_most(15, "next run_code ÷ a call to the agent", more, floors, "ms"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="sandboxes, each for one first run (default: 5)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.rounds))
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        show(rows)


if __name__ == "__main__":
    main()
