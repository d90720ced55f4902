"""
Contexts: a kernel each, with a namespace that lasts. Runs of one context wait for each other.

    run ──► waits ──► executes ──┬──► done
                                 ├── timeout, or nobody wants it any more ──► interrupt ──► done, the namespace stays
                                 │                                               └── it does not yield ──► kill
                                 └── the kernel dies ──► done, and another is started
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from terp_kernels.kernel import Dead, Kernel, Reply
from terp_kernels.nursery import LANGUAGES, NotStarted, Nursery
from terp_kernels.output import Line, Output

MAX_CONTEXTS = 16
MAX_WAITING = 64  # runs of one context
_INTERRUPTS_S = (2.0, 3.0, 5.0)  # how long each of them may take; then the kernel is killed
_ENVIRONMENT_S = 30.0  # to give it to an idle kernel; one that does not take it is stuck
_DEFAULTS = {"python": "default", "javascript": "default-javascript", "bash": "default-bash"}
_OF_A_SHELL = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})
_WARM_UP = "__import__('terp_kernels.inside').inside.warm_up()"


class Refused(Exception):
    """What is asked for cannot be done. `code` is for the host, the text for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Context:
    """`lost`: its kernel died, and no run has been told yet."""

    id: str
    language: str
    cwd: str
    created_at: float
    last_used_at: float | None = None
    executions: int = 0
    kernel: Kernel | None = None
    lost: bool = False
    removed: bool = False
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def alive(self) -> bool:
        return not self.lost and (self.kernel is None or not self.kernel.died.done())

    def described(self) -> Line:
        return {
            "id": self.id,
            "language": self.language,
            "cwd": self.cwd,
            "created_at": self.created_at,
            "last_used_at": self.last_used_at,
            "executions": self.executions,
            "alive": self.alive,
        }


@dataclass(frozen=True)
class Order:
    """What is to be run. `cancelled` is set when nobody wants it any more."""

    code: str
    timeout_s: float
    cancelled: asyncio.Event


class Contexts:
    """
    Args:
        directory: For sockets; root's alone.
        env: What kernels start with.
        cwd: Of the default contexts.
    """

    def __init__(self, directory: Path, env: Mapping[str, str], cwd: str) -> None:
        self._directory = directory
        self._own = dict(env)
        self._env = dict(env)
        self._cwd = cwd
        self._nursery = Nursery()
        self._contexts: dict[str, Context] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Start and warm up the default Python kernel. Raises NotStarted."""
        context = self.find("python", None)
        kernel = await self._kernel(context)
        await kernel.execute_silently(_WARM_UP)

    def set_environment(self, env: Mapping[str, str]) -> None:
        """What the kernels have from their next run on, over what they start with."""
        self._env = {**self._own, **{name: value for name, value in env.items() if name not in _OF_A_SHELL}}

    def find(self, language: str, context_id: str | None) -> Context:
        """The context of that id, whatever its language; without one the default of the language. Raises Refused."""
        self._check(language)
        if context_id is None:
            context_id = _DEFAULTS[language]
        context = self._contexts.get(context_id)
        if context is not None:
            return context
        for default, name in _DEFAULTS.items():
            if name == context_id:
                return self._add(Context(name, default, self._cwd, time.time()))
        raise Refused("context_not_found", f"There is no context {context_id!r}; it was removed, or never was")

    def list(self) -> list[Line]:
        return [context.described() for context in self._contexts.values()]

    async def create(self, language: str, cwd: str) -> Line:
        """Make a context; its kernel starts, and its first run waits for that. Raises Refused."""
        self._check(language)
        if not await asyncio.to_thread(Path(cwd).is_dir):
            raise Refused("invalid", f"cwd is no directory: {cwd}")
        context = self._add(Context(f"ctx_{secrets.token_hex(8)}", language, cwd, time.time()))
        self._spawn(self._revive(context))
        return context.described()

    async def restart(self, context_id: str) -> Line:
        """End the kernel, with what runs in it; another starts. Raises Refused."""
        context = self._existing(context_id)
        async with context.starting:
            await self._end(context)
            context.executions = 0
            context.lost = False
        self._spawn(self._revive(context))
        return context.described()

    async def remove(self, context_id: str) -> None:
        """End the kernel, with what runs in it. Raises Refused."""
        context = self._existing(context_id)
        context.removed = True
        del self._contexts[context_id]
        async with context.starting:
            await self._end(context)

    async def run(self, context: Context, order: Order, emit: Callable[[Line], None]) -> None:
        """Run it when it is its turn, and tell what comes of it. Raises Refused before it began, never after."""
        if context.waiting >= MAX_WAITING:
            raise Refused("limit", f"{MAX_WAITING} runs wait for context {context.id} already; wait for some to end")
        context.waiting += 1
        try:
            async with context.turn:
                if order.cancelled.is_set():
                    raise Refused("cancelled", "Nobody waits for it any more")
                if context.removed:
                    raise Refused("context_not_found", f"Context {context.id} was removed meanwhile")
                if not await self._run(context, order, emit, once_more=True):
                    await self._run(context, order, emit, once_more=False)
        finally:
            context.waiting -= 1

    async def _run(self, context: Context, order: Order, emit: Callable[[Line], None], *, once_more: bool) -> bool:
        """Return whether that was all. With *once_more* it is not, if its kernel had died before it began."""
        if context.kernel is not None and context.kernel.died.done():
            context.lost = True
        kernel = await self._started(context)
        restarted = context.lost
        began = time.monotonic()
        context.lost = False
        context.last_used_at = time.time()
        context.executions += 1
        emit({"started": True})
        output = Output(emit)
        reply, interrupted, killed = None, False, False
        try:
            await self._give_environment(kernel)
            executing = asyncio.create_task(kernel.execute(order.code, output.take))
            interrupted, killed = await self._watched(kernel, executing, order)
            reply = await executing
        except Dead as dead:
            if once_more and not (dead.begun or killed or context.removed):
                context.lost = True
                return False
            restarted = True
            if killed:
                output.error("KernelKilled", "The code did not yield to an interrupt; its kernel was killed", [])
            elif context.removed:
                output.error("KernelRemoved", "The context was removed while the code ran", [])
            else:
                output.error(
                    "KernelDied", "The kernel died while the code ran, or was restarted; its variables are lost", []
                )
        if reply is not None and reply.status != "ok" and not output.failed:
            output.error(*reply.error)  # an interrupt may come before the cell's own first line
        truncated = output.finish()
        emit(
            {
                "done": {
                    "context_id": context.id,
                    "execution_count": None if reply is None else reply.execution_count,
                    "duration_ms": int((time.monotonic() - began) * 1000),
                    "interrupted": interrupted,
                    "restarted": restarted,
                    "truncated": truncated,
                }
            }
        )
        if reply is None and not context.removed:
            self._spawn(self._revive(context))
        return True

    async def _give_environment(self, kernel: Kernel) -> None:
        """
        Raises Dead; whatever the kernel had begun then, it was not what the user wants to be run. One that does not
        take it in time is killed.
        """
        try:
            async with asyncio.timeout(_ENVIRONMENT_S):
                await kernel.set_environment(self._env)
        except TimeoutError as error:
            await kernel.kill()
            raise Dead(f"the kernel did not take its environment in {_ENVIRONMENT_S:.0f} s", begun=False) from error
        except Dead as dead:
            raise Dead(str(dead), begun=False) from dead

    async def _watched(self, kernel: Kernel, executing: asyncio.Task[Reply], order: Order) -> tuple[bool, bool]:
        """Wait for the end of a run, and bring it about when it is time. Whether it timed out, and had to be killed."""
        cancelled = asyncio.create_task(order.cancelled.wait())
        try:
            await asyncio.wait({executing, cancelled}, timeout=order.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            timed_out = not executing.done() and not cancelled.done()
            for patience_s in _INTERRUPTS_S:
                if executing.done():
                    return timed_out, False
                kernel.interrupt()
                await asyncio.wait({executing}, timeout=patience_s)
            if executing.done():
                return timed_out, False
            await kernel.kill()
            await asyncio.wait({executing})
            return timed_out, True
        finally:
            cancelled.cancel()

    async def _revive(self, context: Context) -> None:
        """Have another kernel ready for the next run, which tries again if this fails."""
        with contextlib.suppress(Refused):
            await self._started(context)

    async def _started(self, context: Context) -> Kernel:
        """Raises Refused: no kernel to be had."""
        try:
            return await self._kernel(context)
        except NotStarted as error:
            raise Refused("unavailable", f"{error}; the sandbox may have no memory or processes left for it") from error

    async def _kernel(self, context: Context) -> Kernel:
        async with context.starting:
            if context.kernel is not None and not context.kernel.died.done():
                return context.kernel
            await self._end(context)
            cwd = context.cwd if await asyncio.to_thread(Path(context.cwd).is_dir) else "/"
            name = f"k{secrets.token_hex(4)}"
            kernel = Kernel(name, context.language, cwd, self._env, self._directory)
            await kernel.start(self._nursery)
            if context.removed:
                await kernel.kill()
                raise Refused("context_not_found", f"Context {context.id} was removed meanwhile")
            context.kernel = kernel
            return kernel

    @staticmethod
    async def _end(context: Context) -> None:
        kernel, context.kernel = context.kernel, None
        if kernel is not None:
            await kernel.kill()

    @staticmethod
    def _check(language: str) -> None:
        if language not in LANGUAGES:
            raise Refused("invalid", f"There is no kernel for {language!r}; languages are {', '.join(LANGUAGES)}")

    def _add(self, context: Context) -> Context:
        if len(self._contexts) >= MAX_CONTEXTS:
            raise Refused("limit", f"A sandbox has {MAX_CONTEXTS} contexts at most; remove one")
        self._contexts[context.id] = context
        return context

    def _existing(self, context_id: str) -> Context:
        context = self._contexts.get(context_id)
        if context is None:
            raise Refused("context_not_found", f"There is no context {context_id!r}; it was removed, or never was")
        return context

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
