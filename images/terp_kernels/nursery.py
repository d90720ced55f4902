"""Where kernels come from: the zygote, started when it is needed and again when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping

LANGUAGES = ("python", "javascript", "bash")
_IMPORTED_S = 840.0  # some 30 s under emulation, and many times that on a busy host


class NotStarted(Exception):
    """The kernel did not come up; the text says why."""


class Nursery:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def fork(self, language: str, connection_file: str, cwd: str, env: Mapping[str, str]) -> int:
        """Start a kernel; return the id of its process, which leads a group. Raises NotStarted."""
        order = {"language": language, "connection_file": connection_file, "cwd": cwd, "env": dict(env)}
        async with self._lock:
            try:
                async with asyncio.timeout(_IMPORTED_S):
                    await self._ensure()
                    self._writer.write(json.dumps(order).encode() + b"\n")
                    return int(json.loads(await self._reader.readline())["pid"])
            except (OSError, TimeoutError, ValueError) as error:
                self._end()
                raise NotStarted(f"No kernel can be started: {type(error).__name__} {error}") from error
            except BaseException:
                self._end()  # its answer would be taken for that to the next order
                raise

    async def _ensure(self) -> None:
        if self._process is not None and self._process.returncode is None and not self._reader.at_eof():
            return
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "terp_kernels.zygote", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._writer.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
