"""
The agent channel against its floor: pings and file transfer through a running agent, beside raw bytes on a socket pair.

    python bench/agent_channel.py SOCKET [--directory /tmp] [--mib 64]

Prints JSON: milliseconds (median), MB/s, and the ratios that SPECIFICATION promises. The floor is a forked process
that echoes and pumps with blocking calls on the same kind of socket, in the same run on the same machine. A channel
that ends in a machine also pays for virtio-serial, which no raw byte on the host can show.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

from terpd.node.guest.client import GuestClient

CHUNK = bytes(65_536)
PINGS = 500


def serve_floor(peer: socket.socket, size: int) -> None:
    """Echo the pings, take *size* bytes and say so, then send as many."""
    for _ in range(PINGS):
        peer.sendall(peer.recv(1))
    left = size
    while left:
        left -= len(peer.recv(min(left, len(CHUNK))))
    peer.sendall(b"!")
    for _ in range(size // len(CHUNK)):
        peer.sendall(CHUNK)


def measure_floor(size: int) -> dict[str, float]:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            serve_floor(theirs, size)
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        pings = []
        for _ in range(PINGS):
            start = time.perf_counter()
            ours.sendall(b".")
            ours.recv(1)
            pings.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(size // len(CHUNK)):
            ours.sendall(CHUNK)
        ours.recv(1)
        write_s = time.perf_counter() - start
        start = time.perf_counter()
        left = size
        while left:
            left -= len(ours.recv(len(CHUNK)))
        read_s = time.perf_counter() - start
    os.waitpid(child, 0)
    return figures(pings, write_s, read_s, size)


async def measure_channel(path: Path, directory: str, size: int) -> dict[str, float]:
    client = await GuestClient.connect(path, fresh=False)
    file = f"{directory}/terp-bench-{os.getpid()}"
    try:
        pings = []
        for _ in range(PINGS):
            start = time.perf_counter()
            await client.ping()
            pings.append(time.perf_counter() - start)
        start = time.perf_counter()
        await client.write_file(file, chunks(size), 0o600)
        write_s = time.perf_counter() - start
        start = time.perf_counter()
        read = 0
        async for chunk in client.read_file(file):
            read += len(chunk)
        read_s = time.perf_counter() - start
        if read != size:
            raise SystemExit(f"read {read} bytes of {size}")
        await client.remove_file(file, recursive=False)
    finally:
        await client.close()
    return figures(pings, write_s, read_s, size)


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(CHUNK)):
        yield CHUNK


def figures(pings: list[float], write_s: float, read_s: float, size: int) -> dict[str, float]:
    return {
        "ping_ms": round(statistics.median(pings) * 1e3, 4),
        "write_mb_s": round(size / write_s / 1e6, 1),
        "read_mb_s": round(size / read_s / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the agent channel with raw bytes on the same kind of socket.")
    parser.add_argument("socket", type=Path, help="the host's end of a running agent's channel; nobody else connected")
    parser.add_argument("--directory", default="/tmp", help="below a write root of the guest")
    parser.add_argument("--mib", type=int, default=64, help="size of the file, in MiB")
    arguments = parser.parse_args()
    size = arguments.mib * 1024 * 1024
    floor = measure_floor(size)
    channel = asyncio.run(measure_channel(arguments.socket, arguments.directory, size))
    ratios = {name: round(channel[name] / floor[name], 3) for name in floor}
    print(json.dumps({"mib": arguments.mib, "floor": floor, "channel": channel, "channel_over_floor": ratios}))


if __name__ == "__main__":
    main()
