"""
Code kernels of a simulated node: what a test says a run shows.

`tells` are the events of the next run, an error among them being raised; without any, code is a text result of itself.
`hang` is code that ends when the test sets `released`, or never.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from support.sandboxes import NOON
from terpd.model.code import (
    DEFAULT_CONTEXT,
    CodeContext,
    CodeDone,
    CodeEvent,
    CodeRequest,
    CodeResult,
    Language,
    ResultType,
)
from terpd.model.errors import ContextNotFound, InterpreterUnavailable, TerpError

HANG = "hang"


@dataclass
class SimulatedCode:
    """
    Attributes:
        absent: The template has no kernels.
        requests: All runs that began.
        interrupted: Set when one was closed early.
    """

    tells: list[CodeEvent | TerpError] = field(default_factory=list)
    contexts: dict[str, CodeContext] = field(default_factory=dict)
    requests: list[CodeRequest] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)
    absent: bool = False

    async def run(self, request: CodeRequest) -> AsyncGenerator[CodeEvent, None]:
        self._check()
        if request.context_id not in {None, DEFAULT_CONTEXT, *self.contexts}:
            raise ContextNotFound(f"There is no context {request.context_id}")
        self.requests.append(request)
        done = CodeDone(request.context_id or DEFAULT_CONTEXT, len(self.requests), 5)
        events = self.tells or [CodeResult(ResultType.TEXT, text=request.code, is_main=True), done]
        self.tells = []
        try:
            if request.code == HANG:
                await self.released.wait()
            for event in events:
                if isinstance(event, TerpError):
                    raise event
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.interrupted.set()
            raise

    def create(self, language: Language, cwd: str) -> CodeContext:
        self._check()
        context = CodeContext(f"ctx_{len(self.contexts)}", language, cwd, created_at=NOON)
        self.contexts[context.id] = context
        return context

    def list(self) -> Sequence[CodeContext]:
        self._check()
        return list(self.contexts.values())

    def find(self, context_id: str) -> CodeContext:
        self._check()
        if context_id not in self.contexts:
            raise ContextNotFound(f"There is no context {context_id}")
        return self.contexts[context_id]

    def _check(self) -> None:
        if self.absent:
            raise InterpreterUnavailable("There are no code kernels; create it from code-interpreter")
