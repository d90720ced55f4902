"""Processes that an agent of the OpenAI Agents SDK starts, reads and types into over several calls of its tools."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from collections.abc import Mapping, Sequence

from agents.sandbox.errors import PtySessionNotFoundError
from agents.sandbox.session.pty_types import (
    PTY_PROCESSES_MAX,
    PtyExecUpdate,
    allocate_pty_process_id,
    clamp_pty_yield_time_ms,
    process_id_to_prune_from_meta,
    resolve_pty_write_yield_time_ms,
    truncate_text_by_tokens,
)

from terp import AsyncCommand, AsyncPty, AsyncSandbox
from terp.errors import ExecKilled, TerpError
from terp.models import Exited, Stdout

MAX_HELD_BYTES = 1024 * 1024  # of output that nobody has asked for; older output is dropped
_FIRST_YIELD_MS = 10_000
_NEXT_YIELD_MS = 250
_END_TOLD_S = 5.0  # by when the end of a process has come over the network
_SIGKILL = 9


class Process:
    """A command or terminal, and its output since it was last asked for."""

    def __init__(self, inside: AsyncCommand | AsyncPty) -> None:
        self.used_at = time.monotonic()
        self.exit_code: int | None = None
        self.inside = inside
        self._held = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._following = asyncio.create_task(self._follow())

    @property
    def ended(self) -> bool:
        return self._following.done()

    async def output(self, yield_time_ms: int) -> str:
        """Wait until the process has ended, at most for that time, and return what it wrote meanwhile and before."""
        self.used_at = time.monotonic()
        await asyncio.wait([self._following], timeout=yield_time_ms / 1000)
        data = bytes(self._held)
        self._held.clear()
        return self._decoder.decode(data, final=self.ended)

    async def type(self, chars: str) -> None:
        """
        Type into its terminal; into one that has ended, nothing.

        Raises:
            RuntimeError: It has none; with the words that the SDK looks for.
            TerpError: It was not typed.
        """
        if not isinstance(self.inside, AsyncPty):
            raise RuntimeError("stdin is not available for this process")  # noqa: TRY004 - as the SDK wants it
        if self.ended:
            return
        try:
            await self.inside.write(chars)
        except TerpError:
            # It may have ended just now: then its end is what there is to tell.
            await asyncio.wait([self._following], timeout=_END_TOLD_S)
            if not self.ended:
                raise

    async def end(self) -> None:
        """Kill it, if it still runs."""
        if self.ended:
            return
        self._following.cancel()
        await asyncio.wait([self._following])
        with contextlib.suppress(TerpError):  # the sandbox is gone, and the process with it
            await self.inside.kill()

    async def _follow(self) -> None:
        try:
            if isinstance(self.inside, AsyncPty):
                async for data in self.inside.output():
                    self._hold(data)
                self.exit_code = await self.inside.wait()
            else:
                async for event in self.inside.stream():
                    if isinstance(event, Stdout):
                        self._hold(event.data)
                    elif isinstance(event, Exited):
                        self.exit_code = event.exit_code
        except ExecKilled as error:
            self.exit_code = 128 + (error.signal or _SIGKILL)
        except TerpError as error:
            self._hold(f"\n[{error.detail}]\n".encode())

    def _hold(self, data: bytes) -> None:
        self._held += data
        del self._held[: max(0, len(self._held) - MAX_HELD_BYTES)]


class Processes:
    """Those of one session, by the numbers that the agent knows them by."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox
        self._running: dict[int, Process] = {}

    async def start(
        self,
        command: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        tty: bool,
        yield_time_s: float | None,
        max_output_tokens: int | None,
    ) -> PtyExecUpdate:
        """
        Start *command* and return its first output; and its number, if it still runs then.

        Raises:
            TerpError: It was not started.
        """
        if tty:
            process = Process(await self._sandbox.pty(command=command, cwd=cwd, env=env))
        else:
            process = Process(await self._sandbox.start(command, cwd=cwd, env=env))
        number = allocate_pty_process_id(set(self._running))
        self._running[number] = process
        yield_time_ms = _FIRST_YIELD_MS if yield_time_s is None else int(yield_time_s * 1000)
        await self._make_room()
        return await self._update(number, process, clamp_pty_yield_time_ms(yield_time_ms), max_output_tokens)

    async def write(
        self, number: int, chars: str, *, yield_time_s: float | None, max_output_tokens: int | None
    ) -> PtyExecUpdate:
        """
        Type *chars*, which may be empty, and return the output since the last call.

        Raises:
            PtySessionNotFoundError: There is none of that number, or its end was told already.
            RuntimeError: It has no terminal, and *chars* are not empty.
        """
        process = self._running.get(number)
        if process is None:
            raise PtySessionNotFoundError(session_id=number)
        if chars:
            await process.type(chars)
        asked_ms = _NEXT_YIELD_MS if yield_time_s is None else int(yield_time_s * 1000)
        yield_time_ms = resolve_pty_write_yield_time_ms(yield_time_ms=asked_ms, input_empty=not chars)
        return await self._update(number, process, yield_time_ms, max_output_tokens)

    async def end_all(self) -> None:
        processes = list(self._running.values())
        self._running.clear()
        await asyncio.gather(*(process.end() for process in processes))

    async def _update(
        self, number: int, process: Process, yield_time_ms: int, max_output_tokens: int | None
    ) -> PtyExecUpdate:
        output = await process.output(yield_time_ms)
        ended = process.ended
        if ended:
            self._running.pop(number, None)
        text, original_tokens = truncate_text_by_tokens(output, max_output_tokens)
        return PtyExecUpdate(
            process_id=None if ended else number,
            output=text.encode(),
            exit_code=process.exit_code if ended else None,
            original_token_count=original_tokens,
        )

    async def _make_room(self) -> None:
        """End the one that was used longest ago, when there are too many."""
        if len(self._running) < PTY_PROCESSES_MAX:
            return
        meta = [(number, process.used_at, process.ended) for number, process in self._running.items()]
        number = process_id_to_prune_from_meta(meta)
        if number is not None:
            await self._running.pop(number).end()
