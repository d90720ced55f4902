"""
The first minute with Terp: start a server, run a program in a real virtual machine through the SDK, stop.

Run by `make quickstart` after set-up and the template build. Everything it makes lives in a temporary directory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.syntax import Syntax
from terp import Sandbox, Terp

Result = TypeVar("Result")

PROGRAM = "print(sum(range(1_000_000)))"
EXPECTED = "499999500000"
TERPD = Path(sys.executable).with_name("terpd")

console = Console(highlight=False)


def timed(what: str, act: Callable[[], Result]) -> Result:
    """Run *act* and print what it was and how long it took."""
    began = time.monotonic()
    result = act()
    console.print(f"  [green]✓[/] {what:<58} [bold]{(time.monotonic() - began) * 1000:8.0f} ms[/]")
    return result


def start_server(data_dir: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Return the server and its ready line. Raises RuntimeError with its last words when it ends before."""
    log = Path(data_dir, "terpd.log")
    with log.open("w") as errors:  # a file: a pipe that nobody reads would stop the server once it is full
        server = subprocess.Popen(
            [TERPD, "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", data_dir, "--dev"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith('{"event":"ready"'):
            return server, json.loads(line)
    raise RuntimeError(f"terpd ended with {server.wait()}; its last words:\n{log.read_text()[-2000:]}")


def main() -> int:
    console.print("\n[bold]A program in its own virtual machine[/]")
    with tempfile.TemporaryDirectory(prefix="terp-quickstart-") as data_dir:
        server, ready = timed("start terpd", lambda: start_server(data_dir))
        try:
            client = Terp(api_key=ready["api_key"], base_url=ready["url"])
            console.print(Syntax(f"# /workspace/main.py\n{PROGRAM}", "python", background_color="default"))
            sbx = timed("create a sandbox (python-3.12)", lambda: Sandbox.create(template="python-3.12", client=client))
            timed("write the program", lambda: sbx.files.write("/workspace/main.py", PROGRAM))
            result = timed("exec: python /workspace/main.py", lambda: sbx.exec("python /workspace/main.py"))
            again = timed("exec it again, now warm", lambda: sbx.exec("python /workspace/main.py"))
            kernel = timed("exec: uname -r", lambda: sbx.exec("uname -r"))
            timed("terminate", sbx.terminate)
        finally:
            server.terminate()
            server.wait(timeout=60)
    console.print(f"\n  stdout       [bold cyan]{result.stdout.strip()}[/]")
    console.print(f"  exit code    {result.exit_code}")
    console.print(f"  duration_ms  {result.duration_ms}, then {again.duration_ms}")
    console.print(f"  its kernel   {kernel.stdout.strip()}\n")
    if result.stdout.strip() != EXPECTED:
        console.print(f"[red]Expected {EXPECTED}; stderr: {result.stderr}[/]")
        return 1
    console.print("Next: [bold].venv/bin/terpd doctor[/], then README.md, “Run it”.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
