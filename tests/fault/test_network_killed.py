"""The server is killed while its sandboxes are connected: they are cut off without it, and served behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.server import Server
from support.wait import eventually
from support.world import NAME_SERVER, World, moved, running_world
from terp import Sandbox

pytestmark = pytest.mark.vm

_FETCH = "curl --fail --silent --show-error --max-time 20 http://open.example/ 2>&1"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with moved():
        async with running_world() as world:

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
                await writer.drain()

            world.names["open.example"] = ["93.184.216.10"]
            await world.serve("93.184.216.10", 80, answer)
            yield world


async def fetch(sandbox: Sandbox) -> str:
    """In a thread: the world is served by this one."""
    return await asyncio.to_thread(lambda: sandbox.exec(_FETCH).stdout)


def helpers(server: Server) -> set[int]:
    """The server's children that are no machines: what it started to make and to serve networks."""
    pid = server.process_status()["Pid"]
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
                command = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if f"\nPPid:\t{pid}\n" in status and b"terpd.egress" in command:
                found.add(int(entry.name))
    return found


def has_ended(pid: int) -> bool:
    """Also one that the host's init has not reaped yet, which in containers may take a minute."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def test_a_killed_servers_sandbox_is_cut_off_and_connected_again(
    world: World, own_server: Callable[..., Server]
) -> None:
    """Both helpers end with the server. The next one finds the sandbox's namespace and serves it as it is recorded."""
    server = own_server(settings={"TERP_RESOLVERS": NAME_SERVER, "TERP_UID_FIRST": "867000"}).start()
    try:
        sandbox = server.create(network="open", timeout=3600)
        assert await fetch(sandbox) == "hello"
        before = helpers(server)
        assert len(before) == 2

        server.kill()
        eventually(lambda: all(has_ended(pid) for pid in before))
        server.start()

        assert server.status(sandbox) == "running"
        assert await fetch(sandbox) == "hello"
        assert helpers(server).isdisjoint(before)
        sandbox.terminate()
    finally:
        if server.running:
            server.stop()
