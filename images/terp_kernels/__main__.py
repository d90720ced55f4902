"""
The resident program of a template: `python -m terp_kernels SOCKET`.

Its socket appears when the default Python kernel is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from terp_kernels.contexts import Contexts
from terp_kernels.server import Server

_CWD = "/workspace"


async def _main(socket: Path) -> None:
    directory = socket.parent / "kernels"  # a unix socket's path has 107 bytes at most
    settings = directory / "ipython"  # not among the files of who uses the sandbox
    settings.mkdir(parents=True, mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    env = {**os.environ, "IPYTHONDIR": str(settings)}
    contexts = Contexts(directory, env, _CWD)
    await contexts.prepare()
    await Server(contexts).serve(socket)


if __name__ == "__main__":
    # Kernels are ended for want of memory, not who tells of it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-500")
    asyncio.run(_main(Path(sys.argv[1])))
