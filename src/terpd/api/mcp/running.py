"""Tools that run something: shell commands, and code in kernels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import Field

from terpd.api.mcp.asked import sandbox_of, told, writer
from terpd.api.mcp.lifecycle import SandboxIdText
from terpd.api.mcp.shown import CodeShown, ShellShown
from terpd.control.code import CodeExecution
from terpd.control.exec import Command, ExecResult, Kept
from terpd.control.files import DEFAULT_MODE, FileToWrite
from terpd.control.services import Services
from terpd.model.code import CodeRequest, CodeResult, Language
from terpd.model.errors import TerpError
from terpd.model.guest import DEFAULT_CWD, OutputStream
from terpd.model.ids import ExecId, SandboxId, TenantId

SHOWN_CHARS = 30_000  # of each stream: what is more drowns a model
MAX_IMAGES = 8
PROGRESS_EVERY_S = 2.0
_TIMED_OUT = 124

_RUNS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)


def register(server: MCPServer[Any], services: Services) -> None:
    @server.tool(title="Run a shell command", annotations=_RUNS)
    async def run_shell(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        command: Annotated[str, Field(description="A line for bash")],
        cwd: str = DEFAULT_CWD,
        env: Annotated[dict[str, str] | None, Field(description="For this command alone")] = None,
        timeout_seconds: Annotated[int, Field(description="Then it is killed", ge=1)] = 60,
    ) -> ShellShown:
        """
        Run a command to its end and return its output and exit code. A failing command is no error of this tool.

        Cancelling kills it. For a server that is to stay, start it with: nohup … >/tmp/log 2>&1 &
        """
        with told():
            tenant, identified = writer(ctx).tenant, sandbox_of(sandbox_id)
            asked = Command(command, cwd=cwd, env=env or {}, timeout_s=timeout_seconds)
            kept: Kept = {stream: bytearray() for stream in OutputStream}
            async with _progress(ctx, timeout_seconds, kept[OutputStream.STDOUT]):
                exec_id, result = await services.exec.run_attended(tenant, identified, asked, kept)
            return await _shell_shown(services, tenant, identified, exec_id, result)

    @server.tool(title="Run code", annotations=_RUNS)
    async def run_code(
        ctx: Context[Any, Any],
        sandbox_id: SandboxIdText,
        code: str,
        language: Annotated[Language, Field(description="Each has a kernel of its own")] = Language.PYTHON,
        context_id: Annotated[str | None, Field(description="Of a kernel made over the API; else the default")] = None,
        timeout_seconds: Annotated[int, Field(description="Then it is interrupted; variables are kept", ge=1)] = 60,
    ) -> Annotated[CallToolResult, CodeShown]:
        """
        Run a cell in a Jupyter kernel that keeps its variables between calls. The value of the last expression is the
        result; plots come back as images. Needs a sandbox of the template code-interpreter. Cancelling interrupts it.
        """
        with told():
            tenant, identified = writer(ctx).tenant, sandbox_of(sandbox_id)
            request = CodeRequest(code, language, context_id, float(timeout_seconds))
            async with _progress(ctx, timeout_seconds, None):
                return _code_shown(await services.code.run(tenant, identified, request))


@contextlib.asynccontextmanager
async def _progress(ctx: Context[Any, Any], total_s: int, output: bytearray | None) -> AsyncIterator[None]:
    """Tell a client that asked for it how long it takes by now, and the last line of *output*."""

    async def tell() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            last = "" if not output else bytes(output[-400:]).decode(errors="replace").rstrip().rpartition("\n")[2]
            await ctx.report_progress(round(loop.time() - began, 1), float(total_s), last[-200:] or None)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _shell_shown(
    services: Services, tenant: TenantId, sandbox_id: SandboxId, exec_id: ExecId, result: ExecResult
) -> ShellShown:
    texts, files = [], []
    for stream, data in ((OutputStream.STDOUT, result.stdout), (OutputStream.STDERR, result.stderr)):
        text = data.decode(errors="replace")
        path = None
        if len(text) > SHOWN_CHARS:
            # Where the rest is: a file that read_file pages through, or grep looks into.
            path = f"/tmp/terp/{exec_id}.{stream}"
            try:
                await services.files.write(tenant, sandbox_id, FileToWrite(path, data, DEFAULT_MODE))
            except TerpError:  # its disk is full, or it has ended: what there is to show is shown
                path = None
            text = _shortened(text, path)
        texts.append(text)
        files.append(path)
    exited = result.exited
    return ShellShown(
        exit_code=_TIMED_OUT if exited.timed_out else exited.exit_code,
        stdout=texts[0],
        stderr=texts[1],
        duration_ms=exited.duration_ms,
        timed_out=exited.timed_out,
        full_stdout=files[0],
        full_stderr=files[1],
    )


def _shortened(text: str, path: str | None) -> str:
    half = SHOWN_CHARS // 2
    where = "" if path is None else f"; all of it is in {path}"
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out{where} …]\n{text[-half:]}"


def _code_shown(run: CodeExecution) -> CallToolResult:
    done, truncated = run.done, list(run.done.truncated)
    stdout, stderr = run.stdout, run.stderr
    if len(stdout) > SHOWN_CHARS:
        stdout, truncated = _shortened(stdout, None), [*truncated, "stdout"]
    if len(stderr) > SHOWN_CHARS:
        stderr, truncated = _shortened(stderr, None), [*truncated, "stderr"]
    error = None
    if done.error is not None:
        error = "\n".join(done.error.traceback) or f"{done.error.name}: {done.error.value}"
    texts = [_text_of(result) for result in run.results]
    images = [result.png for result in run.results if result.png is not None]
    if len(images) > MAX_IMAGES:
        truncated.append("images")
    shown = CodeShown(
        stdout=stdout,
        stderr=stderr,
        results=[text for text in texts if text],
        error=error,
        context_id=done.context_id,
        execution_count=done.execution_count,
        duration_ms=done.duration_ms,
        interrupted=done.interrupted,
        restarted=done.restarted,
        truncated=list(dict.fromkeys(truncated)),
    )
    content: list[TextContent | ImageContent] = [TextContent(text=shown.model_dump_json(exclude_none=True))]
    content += [ImageContent(data=png, mime_type="image/png") for png in images[:MAX_IMAGES]]
    return CallToolResult(content=list(content), structured_content=shown.model_dump(mode="json"))


def _text_of(result: CodeResult) -> str:
    text = result.text or result.markdown or result.latex or result.html or ""
    return text if len(text) <= SHOWN_CHARS else _shortened(text, None)
