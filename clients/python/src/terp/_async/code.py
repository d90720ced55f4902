"""Code in persistent kernels."""

from __future__ import annotations

import contextlib
import datetime as dt

from terp import pairs
from terp._async.client import AsyncTerp
from terp._async.part import AsyncSandboxPart
from terp.errors import ConnectionFailed, RequestTimeout
from terp.models import CodeContextInfo, CodeEvent, CodeText, Execution, Result
from terp.protocol import code as protocol
from terp.protocol.events import EventParser
from terp.protocol.request import Request


class AsyncCodeContext:
    """
    A kernel with variables of its own: `AsyncSandbox.create_code_context` starts one.

        context = await sbx.create_code_context()
        await context.run_code("x = 20")
        print((await context.run_code("x + 1")).text)

    It goes on after a pause, and ends with its sandbox. Every method may raise ContextNotFound, StateConflict (the
    sandbox does not run), and what any request may raise: ConnectionFailed, RequestTimeout, Unauthenticated.
    """

    def __init__(self, client: AsyncTerp, sandbox_id: str, info: CodeContextInfo) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._info = info

    async def run_code(
        self,
        code: str,
        *,
        timeout: int = 60,
        on_stdout: pairs.AsyncOnText | None = None,
        on_stderr: pairs.AsyncOnText | None = None,
        on_result: pairs.AsyncOn[Result] | None = None,
    ) -> Execution:
        """Run *code* here, as `AsyncSandbox.run_code` does."""
        events = self.run_code_stream(code, timeout=timeout)
        return await _collected(events, on_stdout, on_stderr, on_result)

    async def run_code_stream(self, code: str, *, timeout: int = 60) -> pairs.AsyncStream[CodeEvent]:
        """Run *code* here and yield what happens, as `AsyncSandbox.run_code_stream` does."""
        request = protocol.run(self._sandbox_id, code, language=self.language, context_id=self.id, timeout=timeout)
        async with contextlib.aclosing(_events(self._client, request)) as events:
            async for event in events:
                yield event

    async def restart(self) -> None:
        """Start the kernel anew, without its variables. It keeps its id; code under way ends."""
        await self._client.call(protocol.restart_context(self._sandbox_id, self.id))

    async def remove(self) -> None:
        """End the kernel."""
        await self._client.call(protocol.remove_context(self._sandbox_id, self.id))

    # ---- what the server said last ----

    @property
    def info(self) -> CodeContextInfo:
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def language(self) -> str:
        return self._info.language

    @property
    def cwd(self) -> str | None:
        return self._info.cwd

    @property
    def created_at(self) -> dt.datetime | None:
        return self._info.created_at

    @property
    def alive(self) -> bool:
        return self._info.alive

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.language}>"


class AsyncCodeCalls(AsyncSandboxPart):
    """Code in kernels: the part of a sandbox's surface."""

    async def run_code(
        self,
        code: str,
        *,
        language: str = "python",
        context: AsyncCodeContext | str | None = None,
        timeout: int = 60,
        on_stdout: pairs.AsyncOnText | None = None,
        on_stderr: pairs.AsyncOnText | None = None,
        on_result: pairs.AsyncOn[Result] | None = None,
    ) -> Execution:
        """
        Run *code* in a kernel, where the variables of earlier runs are.

            execution = await sbx.run_code("import math; math.pi")
            print(execution.text)
            for result in execution.results:
                if result.png:
                    Path("plot.png").write_bytes(result.png)

        Args:
            language: `python`, `javascript` or `bash`, as far as the template has them.
            context: Where it runs; None for the language's default context.
            timeout: Seconds; then the code is interrupted, and the variables stay.
            on_stdout, on_stderr: Called with the text as it comes. What they raise comes out.
            on_result: Called with each result as it comes.

        Returns:
            The execution, whatever the code raised: that is in `error`, and `.check()` raises CodeFailed.

        Raises:
            InterpreterUnavailable: The template has no kernels.
            ContextNotFound: There is no such context.
            StateConflict: The sandbox does not run, or was paused meanwhile.
            ConnectionFailed: The server interrupts code that nobody follows. It is never sent twice.
        """
        events = self.run_code_stream(code, language=language, context=context, timeout=timeout)
        return await _collected(events, on_stdout, on_stderr, on_result)

    async def run_code_stream(
        self,
        code: str,
        *,
        language: str = "python",
        context: AsyncCodeContext | str | None = None,
        timeout: int = 60,
    ) -> pairs.AsyncStream[CodeEvent]:
        """
        Run *code* and yield what happens: any `CodeText` and `Result`, a `CodeError` if it raised, `CodeDone`.

        Arguments and errors as of `run_code`.
        """
        context_id = context.id if isinstance(context, AsyncCodeContext) else context
        if isinstance(context, AsyncCodeContext):
            language = context.language
        request = protocol.run(self.id, code, language=language, context_id=context_id, timeout=timeout)
        async with contextlib.aclosing(_events(self._client, request)) as events:
            async for event in events:
                yield event

    async def create_code_context(self, language: str = "python", cwd: str | None = None) -> AsyncCodeContext:
        """
        Start a kernel with variables of its own.

        Args:
            language: `python`, `javascript` or `bash`, as far as the template has them.
            cwd: The directory it works in; /workspace if not given.

        Raises:
            InterpreterUnavailable: The template has no kernels, or none of that language.
            LimitExceeded: The sandbox has as many as it may.
        """
        reply = await self._client.call(protocol.create_context(self.id, language=language, cwd=cwd))
        return AsyncCodeContext(self._client, self.id, protocol.read_context(reply))

    async def code_contexts(self) -> tuple[AsyncCodeContext, ...]:
        """Return the sandbox's contexts, the default ones included."""
        found = protocol.read_contexts(await self._client.call(protocol.list_contexts(self.id)))
        return tuple(AsyncCodeContext(self._client, self.id, info) for info in found)


async def _events(client: AsyncTerp, request: Request) -> pairs.AsyncStream[CodeEvent]:
    parser, reader = EventParser(protocol.MAX_EVENT_BYTES), protocol.CodeReader()
    async with client.stream(request) as chunks:
        try:
            async for chunk in chunks:
                if reader.finished:
                    return
                for payload in parser.feed(chunk):
                    for event in reader.read(payload):
                        yield event
        except (ConnectionFailed, RequestTimeout):
            if not reader.finished:
                raise
    if not reader.finished:
        raise ConnectionFailed("The stream ended before the code did; the server interrupts code that nobody follows")


async def _collected(
    stream: pairs.AsyncStream[CodeEvent],
    on_stdout: pairs.AsyncOnText | None,
    on_stderr: pairs.AsyncOnText | None,
    on_result: pairs.AsyncOn[Result] | None,
) -> Execution:
    collected = protocol.Collected()
    async with contextlib.aclosing(stream) as events:
        async for event in events:
            collected.add(event)
            if isinstance(event, CodeText):
                callback = on_stderr if event.stream == "stderr" else on_stdout
                if callback and event.text:
                    await pairs.call_async(callback, event.text)
            elif isinstance(event, Result) and on_result:
                await pairs.call_async(on_result, event)
    return collected.execution()
