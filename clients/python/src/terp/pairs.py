"""
The few things that differ between the asynchronous and the synchronous client, in pairs.

`_sync/` is generated from `_async/` by tools/sync.py, which replaces the first of each pair by the second.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from typing import IO, TypeVar

import httpx

Result = TypeVar("Result")
Value = TypeVar("Value")

READ_SIZE = 256 * 1024  # of file objects; large enough that a thread per read costs nothing that shows

# ---- names of others -----------------------------------------------------------------------------

AsyncHttp = httpx.AsyncClient
Http = httpx.Client

AsyncLock = asyncio.Lock
Lock = threading.Lock

AsyncHttpTransport = httpx.AsyncBaseTransport
HttpTransport = httpx.BaseTransport

# ---- what a caller may hand over -----------------------------------------------------------------

AsyncOn = Callable[[Value], Awaitable[None] | None]
On = Callable[[Value], None]

AsyncOnText = AsyncOn[str]
OnText = On[str]

AsyncAct = Callable[[], Awaitable[Result]]
Act = Callable[[], Result]

AsyncStream = AsyncGenerator[Result, None]
Stream = Generator[Result, None, None]

AsyncChunks = AsyncIterable[bytes] | Iterable[bytes]
Chunks = Iterable[bytes]


async def call_async(callback: AsyncOn[Value], value: Value) -> None:
    """The callback of an asynchronous caller may be a coroutine function or a plain one."""
    pending = callback(value)
    if inspect.isawaitable(pending):
        await pending


def call(callback: On[Value], value: Value) -> None:
    callback(value)


async def iterate_async(chunks: AsyncChunks) -> AsyncIterator[bytes]:
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:
            yield chunk


def iterate(chunks: Chunks) -> Iterator[bytes]:
    yield from chunks


async def read_file_async(file: IO[str] | IO[bytes]) -> AsyncIterator[bytes]:
    """In a thread, for the read may block the loop: a pipe, a slow disk."""
    read: Callable[[int], str | bytes] = file.read
    while data := await asyncio.to_thread(read, READ_SIZE):
        yield data.encode() if isinstance(data, str) else data


def read_file(file: IO[str] | IO[bytes]) -> Iterator[bytes]:
    while data := file.read(READ_SIZE):
        yield data.encode() if isinstance(data, str) else data


# ---- what blocks ---------------------------------------------------------------------------------


async def in_thread_async(act: Callable[[], Result]) -> Result:
    return await asyncio.to_thread(act)


def in_thread(act: Callable[[], Result]) -> Result:
    return act()


async def pull_async(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each in a thread: making it reads files."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def pull(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield from chunks


# ---- time ----------------------------------------------------------------------------------------


async def sleep_async(seconds: float) -> None:
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


# ---- cancellation --------------------------------------------------------------------------------

_unfinished: set[asyncio.Task[None]] = set()  # the loop holds tasks weakly


async def finish_async(act: Callable[[], Awaitable[None]]) -> None:
    """
    Await *act* so that cancelling the caller does not stop it; the cancellation itself goes on at once.

    For cleaning up inside of a cancelled scope, where the next await would be cancelled too.
    """

    async def run() -> None:
        await act()

    task = asyncio.create_task(run())
    _unfinished.add(task)
    task.add_done_callback(_finished)
    await asyncio.shield(task)


def _finished(task: asyncio.Task[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, or asyncio complains when the caller was cancelled and nobody else looks


def finish(act: Callable[[], None]) -> None:
    act()


# ---- the scope of a default client ---------------------------------------------------------------


def scope_async() -> object:
    """Connections belong to the event loop that opened them."""
    return asyncio.get_running_loop()


def scope() -> object:
    """A forked child must not use its parent's connections."""
    return os.getpid()


def is_over_async(scope: object) -> bool:
    return isinstance(scope, asyncio.AbstractEventLoop) and scope.is_closed()


def is_over(scope: object) -> bool:
    return scope != os.getpid()


_closers: set[AsyncGenerator[None, None]] = set()  # the loop holds them weakly


async def at_end_async(close: Callable[[], Awaitable[None]]) -> None:
    """Have *close* awaited when `asyncio.run` ends: it finishes all generators that are still under way."""

    async def closer() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _closers.discard(waiting)
            await close()

    waiting = closer()
    _closers.add(waiting)
    await anext(waiting)


def at_end(close: Callable[[], None]) -> None:
    """Have *close* called when the interpreter ends."""
    atexit.register(close)
