"""
A virtio-serial port as QEMU gives it: one unbroken stream to the agent, while hosts come and go on a unix socket.

The agent does not see hosts change, and meets what the last one left half said; the next host finds what the agent
had still under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class SerialPort:
    def __init__(self, agent: asyncio.StreamWriter) -> None:
        self._agent = agent
        self._host: asyncio.StreamWriter | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._present = asyncio.Event()
        self._progress = asyncio.Condition()
        self.from_host_bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one host's bytes on; the next one waits, as it does at QEMU's socket."""
        await self._free.wait()
        self._free.clear()
        self._host = writer
        self._present.set()
        try:
            while data := await reader.read(65_536):
                self._agent.write(data)
                await self._agent.drain()
                async with self._progress:
                    self.from_host_bytes += len(data)
                    self._progress.notify_all()
        except ConnectionError:
            pass
        finally:
            self._present.clear()
            self._host = None
            writer.transport.abort()
            self._free.set()

    async def pump_back(self, agent: asyncio.StreamReader) -> None:
        """Pass the agent's bytes to whoever is there; without a host they stay in the guest."""
        while data := await agent.read(4096):
            await self._present.wait()
            if self._host is not None:
                try:
                    self._host.write(data)
                    await self._host.drain()
                except ConnectionError:
                    pass  # this host is gone; the bytes are lost with it

    async def received(self, count: int) -> None:
        """Wait until hosts have sent *count* bytes in all."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.from_host_bytes >= count)

    async def close(self) -> None:
        """Send the host away."""
        if self._host is not None:
            self._host.transport.abort()
        await self.vacant()

    async def vacant(self) -> None:
        """Wait until no host is connected."""
        await self._free.wait()


@asynccontextmanager
async def serial_port(agent: Path, path: Path) -> AsyncIterator[SerialPort]:
    """Connect to the agent that listens at *agent*, once, and listen for hosts at *path*."""
    reader, writer = await asyncio.open_unix_connection(str(agent))
    port = SerialPort(writer)
    back = asyncio.create_task(port.pump_back(reader))
    server = await asyncio.start_unix_server(port.serve, str(path))
    try:
        yield port
    finally:
        server.close()
        await port.close()
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)
        writer.transport.abort()
