"""A server of its own for one measurement: started, used over HTTP, stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TERPD = Path(sys.executable).with_name("terpd")


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    api_key: str
    pid: int


@contextmanager
def server(*, pool: str | None = None, memory_cap_mib: int | None = None) -> Iterator[Server]:
    """
    Run `terpd serve --dev` in a temporary data directory.

    Args:
        pool: What to keep warm, as `--pool` takes it.
        memory_cap_mib: More than the host has is fine for clones that touch little of theirs.
    """
    with tempfile.TemporaryDirectory(prefix="terp-bench-") as data_dir:
        argv = [str(TERPD), "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", data_dir, "--dev"]
        if pool:
            argv += ["--pool", pool]
        environ = dict(os.environ)
        if memory_cap_mib is not None:
            environ["TERP_MEMORY_CAP_MIB"] = str(memory_cap_mib)
        log = Path(data_dir) / "terpd.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, env=environ)
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(f"terpd did not start: {log.read_text()[-2000:]}")
                ready = json.loads(line)
                yield Server(ready["url"], ready["api_key"], process.pid)
            finally:
                process.terminate()
                process.wait(timeout=120)
