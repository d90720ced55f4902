"""An agent that says what a test tells it to, true or not: the far end of the guest wire on a unix socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.frames import HEADER, MAGIC, PREFACE_BYTES, FrameType, encode


class Host:
    """The host as its agent sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def preface(self) -> bytes:
        """Skip to the host's preface and return it, without answering."""
        before = await self._reader.readuntil(MAGIC)
        self.skipped = len(before) - len(MAGIC)
        return MAGIC + await self._reader.readexactly(PREFACE_BYTES - len(MAGIC))

    async def greet(self, **hello: object) -> None:
        """Answer the preface and the Hello as an agent should; *hello* changes fields of the reply."""
        self.raw(await self.preface())
        stream, kind, payload = await self.frame()
        assert kind == FrameType.OPEN
        assert wire.Request.FromString(payload).HasField("hello")
        fields = {"wire_version": 1, "agent_version": "0", "state": "booted", "boot_id": bytes(16)} | hello
        self.reply(stream, hello=wire.HelloReply(**fields))
        self.end(stream)

    async def frame(self) -> tuple[int, int, bytes]:
        """The host's next frame: stream, type, payload."""
        length, stream, kind = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        return stream, kind, await self._reader.readexactly(length)

    async def request(self) -> tuple[int, wire.Request]:
        """The host's next OPEN; other frames before it are skipped."""
        while True:
            stream, kind, payload = await self.frame()
            if kind == FrameType.OPEN:
                return stream, wire.Request.FromString(payload)

    def reply(self, stream: int, **arm: object) -> None:
        self.raw(encode(stream, FrameType.MESSAGE, wire.Reply(**arm).SerializeToString()))

    def send(self, stream: int, kind: FrameType, payload: bytes = b"") -> None:
        self.raw(encode(stream, kind, payload))

    def end(self, stream: int, code: int = wire.Status.OK, message: str = "") -> None:
        self.send(stream, FrameType.END, wire.Status(code=code, message=message).SerializeToString())

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def flood(self, data: bytes) -> None:
        """Send *data* again and again until the host hangs up."""
        while True:
            self._writer.write(data)
            await self._writer.drain()

    async def silence(self) -> None:
        """Read and say nothing until the host hangs up."""
        while await self._reader.read(65_536):
            pass


@asynccontextmanager
async def scripted_agent(directory: Path, script: Callable[[Host], Awaitable[None]]) -> AsyncIterator[Path]:
    """
    Serve connections by *script*; hang up when it returns. Yields the socket's path.

    What the script raises because the host hung up is dropped; anything else is raised at the end of the block.
    """
    path = directory / "agent.sock"
    failures: list[BaseException] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(Host(reader, writer))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - raised where the test sees it
            failures.append(error)
        finally:
            writer.transport.abort()
            running.discard(task)

    descriptor = os.open(directory, os.O_PATH)  # a test's directory may be deeper than a socket address is long
    server = await asyncio.start_unix_server(serve, f"/proc/self/fd/{descriptor}/{path.name}", limit=1 << 20)
    try:
        yield path
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        os.close(descriptor)
    if failures:
        raise failures[0]
