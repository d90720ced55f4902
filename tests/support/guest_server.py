"""A server on a port of a simulated guest, which answers with the bytes that a test gives it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from support.api import RunningApi
from terpd.model.ids import SandboxId

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class GuestServer:
    """
    Attributes:
        heads: Of the requests that came, as they came.
        left: Set when a connection to it is over.
    """

    heads: list[bytes] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def guest_server(
    api: RunningApi, sandbox_id: str, answer: Answer | bytes, port: int = 3000
) -> AsyncIterator[GuestServer]:
    """*answer* is called after a request's head was read, or is what is answered."""
    server = GuestServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                server.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
        finally:
            server.left.set()
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    api.node.machines[SandboxId(sandbox_id)].listening[port] = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
