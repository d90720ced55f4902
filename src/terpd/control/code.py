"""Run code in the kernels of a sandbox: as a stream of events, or collected to one result."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from terpd.control.awake import Awake
from terpd.control.checks import check_path
from terpd.control.ended import explaining
from terpd.control.exec import close
from terpd.control.policy import Policy
from terpd.model.code import (
    MAX_CODE_BYTES,
    CodeContext,
    CodeDone,
    CodeEvent,
    CodeRequest,
    CodeResult,
    CodeText,
    Language,
)
from terpd.model.errors import GuestFault, InvalidRequest, TooLarge
from terpd.model.guest import DEFAULT_CWD, OutputStream
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, Store

MAX_CONTEXT_ID_CHARS = 64

_DURING = "while the code ran"
_TODO = "the code goes on when it is resumed, and what it shows until then is lost"
_IN_USE = "while its kernels were in use"


@dataclass(frozen=True, slots=True)
class CodeExecution:
    """What a run came to. The node has held all of it to its caps; `done.truncated` says what was cut."""

    stdout: str
    stderr: str
    results: Sequence[CodeResult]
    done: CodeDone


class Code:
    """
    A sandbox that is paused and has `auto_resume` is resumed first.

    Every method raises SandboxNotFound; StateConflict unless the sandbox runs; InterpreterUnavailable for a template
    without kernels; GuestFault.
    """

    def __init__(self, store: Store, node: Node, policy: Policy, awake: Awake) -> None:
        self._store = store
        self._node = node
        self._policy = policy
        self._awake = awake

    async def start(
        self, tenant: TenantId, sandbox_id: SandboxId, request: CodeRequest
    ) -> AsyncGenerator[CodeEvent, None]:
        """
        Check, and return the run's events; it starts when the first one is asked for. Closing them interrupts it.

        Raises:
            InvalidRequest, TooLarge: A field is out of bounds.

        The events raise in addition:
            ContextNotFound; LimitExceeded: too many contexts, or runs that wait.
            StateConflict: The sandbox ended while the code ran; or it was paused, and the code goes on when it is
                resumed.
        """
        self._check(request)
        await self._awake(tenant, sandbox_id)
        return self._watched(tenant, sandbox_id, request)

    async def run(self, tenant: TenantId, sandbox_id: SandboxId, request: CodeRequest) -> CodeExecution:
        """Run to the end and keep what it showed. Cancelling interrupts it. Raises as `start` and its events."""
        events = await self.start(tenant, sandbox_id, request)
        texts: dict[OutputStream, list[str]] = {stream: [] for stream in OutputStream}
        results: list[CodeResult] = []
        try:
            async for event in events:
                if isinstance(event, CodeText):
                    texts[event.stream].append(event.text)
                elif isinstance(event, CodeResult):
                    results.append(event)
                elif isinstance(event, CodeDone):
                    stdout, stderr = ("".join(texts[stream]) for stream in (OutputStream.STDOUT, OutputStream.STDERR))
                    return CodeExecution(stdout, stderr, results, event)
        finally:
            await events.aclose()
        raise GuestFault("The guest stopped reporting on the code")

    async def list(self, tenant: TenantId, sandbox_id: SandboxId) -> Sequence[CodeContext]:
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _IN_USE, todo="resume it and try again", fields={}):
            return await self._node.list_code_contexts(sandbox_id)

    async def create(self, tenant: TenantId, sandbox_id: SandboxId, language: Language, cwd: str | None) -> CodeContext:
        """Raises InvalidRequest: no such directory; LimitExceeded: 16 contexts."""
        cwd = DEFAULT_CWD if cwd is None else check_path(cwd, field="cwd")
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _IN_USE, todo="resume it and try again", fields={}):
            return await self._node.create_code_context(sandbox_id, language, cwd)

    async def restart(self, tenant: TenantId, sandbox_id: SandboxId, context_id: str) -> CodeContext:
        """What runs in it ends. Raises ContextNotFound."""
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _IN_USE, todo="resume it and try again", fields={}):
            return await self._node.restart_code_context(sandbox_id, context_id)

    async def remove(self, tenant: TenantId, sandbox_id: SandboxId, context_id: str) -> None:
        """What runs in it ends. Raises ContextNotFound."""
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _IN_USE, todo="resume it and try again", fields={}):
            await self._node.remove_code_context(sandbox_id, context_id)

    def _check(self, request: CodeRequest) -> None:
        try:
            size = len(request.code.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest("code must be valid Unicode: it holds half of a surrogate pair") from error
        if size > MAX_CODE_BYTES:
            raise TooLarge(
                f"code may have {MAX_CODE_BYTES} bytes at most; write a file and import it. It has: {size}",
                fields={"limit": MAX_CODE_BYTES},
            )
        if not 1 <= request.timeout_s <= self._policy.max_timeout_s:
            raise InvalidRequest(
                f"timeout_seconds must be 1 to {self._policy.max_timeout_s}, not: {request.timeout_s:g}"
            )
        if request.context_id is not None and not 1 <= len(request.context_id) <= MAX_CONTEXT_ID_CHARS:
            raise InvalidRequest(f"context_id has 1 to {MAX_CONTEXT_ID_CHARS} characters")

    async def _watched(
        self, tenant: TenantId, sandbox_id: SandboxId, request: CodeRequest
    ) -> AsyncGenerator[CodeEvent, None]:
        events: AsyncIterator[CodeEvent] | None = None
        try:
            while True:
                async with explaining(self._store, tenant, sandbox_id, _DURING, todo=_TODO, fields={}):
                    if events is None:
                        events = self._node.run_code(sandbox_id, request)
                    try:
                        event = await anext(events)
                    except StopAsyncIteration as error:
                        raise GuestFault("The guest stopped reporting on the code") from error
                yield event
                if isinstance(event, CodeDone):
                    return
        finally:
            if events is not None:
                await close(events)
