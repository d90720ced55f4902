"""
The process that kernels are forked from: it has imported what they need, which takes half a minute under emulation.

    python -m terp_kernels.zygote DESCRIPTOR

A line of JSON on that socket asks for a kernel: `{"language", "connection_file", "cwd", "env"}`; a line answers:
`{"pid"}`. It has one thread and no loop, so that its forks are whole. A kernel is in a session of its own and waited
for by nobody.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

INLINE = "module://matplotlib_inline.backend_inline"  # figures are results
_NEEDED = ("ipykernel.ipkernel", "ipykernel.kernelapp", "terp_kernels.bash", "terp_kernels.javascript")
_LIKELY = ("numpy", "pandas", "matplotlib.pyplot", "terp_kernels.chart")  # not the backend: it asks for a kernel


def main(descriptor: int) -> None:
    os.environ["MPLBACKEND"] = INLINE  # read when matplotlib is imported
    for name in (*_NEEDED, *_LIKELY):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # looking for garbage would copy the pages that all kernels share
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rwb") as lines:
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _become(order)
            lines.write(json.dumps({"pid": pid}).encode() + b"\n")
            lines.flush()


def _become(order: Mapping[str, Any]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)
        os.closerange(3, max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()) + 1)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        time.tzset()
        sys.path[:] = [entry for entry in sys.path if entry]
        sys.modules["numpy"].random.seed()  # else all kernels would draw the same
        _run(order["language"], order["connection_file"])
        status = 0
    finally:
        os._exit(status)


def _run(language: str, connection_file: str) -> None:
    if language == "python":
        from ipykernel.kernelapp import IPKernelApp

        settings = [
            "--ext=terp_kernels.inside",
            "--HistoryManager.enabled=False",  # it would keep every cell in a database on the disk
            "--InteractiveShell.colors=nocolor",
        ]
        IPKernelApp.launch_instance(["-f", connection_file, *settings])
    else:
        importlib.import_module(f"terp_kernels.{language}").launch(connection_file)


if __name__ == "__main__":
    main(int(sys.argv[1]))
