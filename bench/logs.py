"""
Measure many followers of one background command against one: `python -m bench.logs [--followers 1000] [--mib 4]`.

All begin before the command writes, over HTTP, and each checks every byte of what it gets: order, offsets and content.
Rates are of what is delivered, followers times bytes. The client is this process, which decodes all of it on the same
host: rates per core are by the server's processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from terp import AsyncCommand, AsyncSandbox, AsyncTerp

from bench.__main__ import show
from bench.rows import Row, at_least
from bench.server import Server, server

LINE = "%015d\n"  # 16 bytes
_CHUNK = b'data: {"kind":"exec_chunk"'
_LINE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Delivered:
    """To all followers together."""

    mib: float
    wall_s: float
    cpu_s: float


async def follow(at: Server, sandbox_id: str, command_id: str, begun: asyncio.Semaphore) -> tuple[int, int]:
    """Bytes and checksum of what one follower was sent; *begun* is released when it follows."""
    url = urlsplit(at.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=_LINE_LIMIT)
    path = f"/v1/sandboxes/{sandbox_id}/commands/{command_id}/logs?follow=true&timeout_seconds=3600"
    head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {at.api_key}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    size = checksum = 0
    try:
        while line := await reader.readline():
            if line.startswith(_CHUNK):
                frame = json.loads(line[5:])
                data = base64.b64decode(frame["data"])
                if frame["offset"] != size:
                    raise RuntimeError(f"a chunk at {frame['offset']}, expected at {size}")
                size += len(data)
                checksum = zlib.crc32(data, checksum)
            elif b'"exec_started"' in line:
                begun.release()
            elif b'"exec_exited"' in line:
                return size, checksum
    finally:
        writer.close()
    raise RuntimeError(f"the stream ended after {size} bytes")


async def deliver(at: Server, sandbox: AsyncSandbox, followers: int, mib: int) -> Delivered:
    """Let *followers* follow a command that writes *mib* MiB."""
    content = "".join(LINE % number for number in range((mib << 20) // 16)).encode()
    await sandbox.files.write("/tmp/content", content)
    command: AsyncCommand = await sandbox.start(
        "until [ -e /tmp/go ]; do sleep 0.1; done; rm /tmp/go; cat /tmp/content"
    )
    begun = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(follow(at, sandbox.id, command.id, begun)) for _ in range(followers)]
    for _ in range(followers):
        await begun.acquire()
    cpu_s, began = server_cpu_s(at), time.monotonic()
    await sandbox.files.write("/tmp/go", "")
    results = set(await asyncio.gather(*tasks))
    wall_s = time.monotonic() - began
    expected = (len(content), zlib.crc32(content))
    if results != {expected}:
        raise RuntimeError(f"followers got {results}, the command wrote {expected}")
    return Delivered(followers * mib, wall_s, server_cpu_s(at) - cpu_s)


def server_cpu_s(at: Server) -> float:
    fields = Path(f"/proc/{at.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(template: str, followers: int, mib: int) -> list[Row]:
    with server() as at:
        async with AsyncTerp(api_key=at.api_key, base_url=at.url) as client:
            sandbox = await AsyncSandbox.create(template=template, timeout=3600, client=client)
            await deliver(at, sandbox, 1, 1)  # first touches
            one = await deliver(at, sandbox, 1, 8 * mib)
            many = await deliver(at, sandbox, followers, mib)
            await sandbox.terminate()
    return [
        at_least(1, f"{followers} followers ÷ one, delivered", many.mib / many.wall_s, one.mib / one.wall_s, "MiB/s"),
        at_least(1, "the same by the server's time", many.mib / many.cpu_s, one.mib / one.cpu_s, "MiB/s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--template", default="python-3.12-bare")
    parser.add_argument("--followers", type=int, default=1000)
    parser.add_argument("--mib", type=int, default=4)
    given = parser.parse_args()
    show(asyncio.run(measure(given.template, given.followers, given.mib)))


if __name__ == "__main__":
    main()
