"""
The socket that the host speaks to. A connection is a call: one line of JSON asks, lines of JSON answer.

| ask: `{"op": …}` | answer |
|---|---|
| `ping` | `{"ok": true}` |
| `run`, with `run`, `code`, `language`, `context`, `timeout_s`, and `env` or none | the lines of a run |
| `attach`, with `run` and `after` | its lines from behind the one with the number `after` |
| `list` | `{"contexts": […]}` |
| `create`, with `language`, `cwd`; `restart`, with `context` | `{"context": {…}}` |
| `remove`, with `context` | `{"ok": true}` |

What cannot be done is `{"refused": {"code", "message"}}`: code `invalid`, `context_not_found`, `run_not_found`, `limit`
or `unavailable`. `run` is an id of the caller's choice; `context` is an id, or null for its default. `env` is
the whole environment that kernels have from then on; absent, it stays.

The lines of a run have a number `n`, from 0: `{"started"}` when it is its turn, any `{"stream", "text"}` and
`{"result"}`, at most one `{"error"}`, and `{"done"}`. `{"alive"}`, without a number, comes at once and then every few
seconds. A second line from the host, `{"op": "cancel"}`, interrupts the run. A connection that breaks does not: its
sandbox was saved or its host restarted, and the run can be attached to, while it runs and for a minute after.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from terp_kernels.contexts import Contexts, Order, Refused
from terp_kernels.output import Line, encode

MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_PIECE_CHARS = 32 * 1024  # of text in one line
_ALIVE_S = 5.0
_KEPT_S = 60.0
_KEPT_RUNS = 4


class Run:
    """What came of one run so far, kept for who reads it. It is bounded by the caps of `output`."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.cancelled = asyncio.Event()
        self.over_at: float | None = None
        self._sent = 0
        self._more = asyncio.Event()

    def add(self, line: Line) -> None:
        last = self.lines[-1] if self.lines else {}
        if (
            len(self.lines) > self._sent
            and "stream" in line
            and last.get("stream") == line["stream"]
            and len(last["text"]) + len(line["text"]) <= MAX_PIECE_CHARS
        ):
            last["text"] += line["text"]
        elif "stream" in line:
            for start in range(0, len(line["text"]), MAX_PIECE_CHARS):
                piece = line["text"][start : start + MAX_PIECE_CHARS]
                self.lines.append({"n": len(self.lines), "stream": line["stream"], "text": piece})
        else:
            self.lines.append({"n": len(self.lines), **line})
        self._more.set()

    def end(self) -> None:
        self.over_at = time.monotonic()
        self._more.set()

    async def follow(self, after: int, write: Callable[[Line], Awaitable[None]]) -> None:
        position = after + 1
        while True:
            while position < len(self.lines):
                self._sent = max(self._sent, position + 1)
                await write(self.lines[position])
                position += 1
            if self.over_at is not None:
                return
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), _ALIVE_S)
            except TimeoutError:
                await write({"alive": True})


class Server:
    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, path: Path) -> None:
        """Listen until the process ends. The socket appears when it is served."""
        beside = path.with_name(f".{path.name}")
        beside.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._handle, beside, limit=MAX_REQUEST_BYTES)
        beside.chmod(0o600)
        beside.rename(path)
        async with server:
            await server.serve_forever()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write(line: Line) -> None:
            writer.write(encode(line))
            await writer.drain()

        try:
            try:
                request = json.loads(await reader.readline())
                if not isinstance(request, dict):
                    raise Refused("invalid", "A request is an object")
                await self._answer(request, reader, write)
            except Refused as refusal:
                await write({"refused": {"code": refusal.code, "message": str(refusal)}})
            except (ValueError, KeyError, TypeError) as error:  # too long, no JSON, not as described above
                await write({"refused": {"code": "invalid", "message": f"Not understood: {type(error).__name__}"}})
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self, request: dict[str, Any], reader: asyncio.StreamReader, write: Callable[[Line], Awaitable[None]]
    ) -> None:
        op = request["op"]
        if op == "run":
            await self._follow(self._begin(request), -1, reader, write)
        elif op == "attach":
            run = self._runs.get(request["run"])
            if run is None:
                raise Refused("run_not_found", "There is no such run, or it ended too long ago")
            await self._follow(run, int(request["after"]), reader, write)
        elif op == "list":
            await write({"contexts": self._contexts.list()})
        elif op == "create":
            await write({"context": await self._contexts.create(request["language"], request["cwd"])})
        elif op == "restart":
            await write({"context": await self._contexts.restart(request["context"])})
        elif op == "remove":
            await self._contexts.remove(request["context"])
            await write({"ok": True})
        elif op == "ping":
            await write({"ok": True})
        else:
            raise Refused("invalid", f"There is no such call: {op!r}")

    def _begin(self, request: dict[str, Any]) -> Run:
        known = self._runs.get(str(request["run"]))
        if known is not None:  # the host asks again after a connection broke: it must not run twice
            return known
        order_code, timeout_s = str(request["code"]), float(request["timeout_s"])
        if "env" in request:
            self._contexts.set_environment({str(name): str(value) for name, value in request["env"].items()})
        context = self._contexts.find(request["language"], request["context"])
        self._forget()
        run = self._runs[str(request["run"])] = Run()

        async def work() -> None:
            try:
                await self._contexts.run(context, Order(order_code, timeout_s, run.cancelled), run.add)
            except Refused as refusal:
                run.add({"refused": {"code": refusal.code, "message": str(refusal)}})
            finally:
                run.end()

        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    @staticmethod
    async def _follow(
        run: Run, after: int, reader: asyncio.StreamReader, write: Callable[[Line], Awaitable[None]]
    ) -> None:
        async def listen() -> None:
            with contextlib.suppress(ValueError):
                while line := await reader.readline():
                    if json.loads(line).get("op") == "cancel":
                        run.cancelled.set()

        listening = asyncio.create_task(listen())
        try:
            await write({"alive": True})
            await run.follow(after, write)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def _forget(self) -> None:
        """Runs that were over long ago, and all but the last few of those that are over."""
        over = [name for name, run in self._runs.items() if run.over_at is not None]
        for index, name in enumerate(over):
            if index < len(over) - _KEPT_RUNS or time.monotonic() - (self._runs[name].over_at or 0) > _KEPT_S:
                del self._runs[name]
