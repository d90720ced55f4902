"""
Measure the gateway against a bare splice between the same sockets: `unshare -n python -m bench.gateway [--rounds 5]`.

Run it in an empty network, as above: it brings up `lo` and uses ports 443 of 127.0.0.1 to 127.0.0.3. Floor and subject
take turns. Rates per core are by the processor time of the process that is measured, so that other load on the host
and the cost of this client do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.__main__ import show
from bench.rows import Row, at_least
from terpd.egress.base import Sockets
from terpd.egress.client import GatewayClient
from terpd.egress.upstream import Upstream
from terpd.model.ids import TenantId, new_sandbox_id
from terpd.model.network import NetworkPolicy, NetworkSpec

SERVER, GATEWAY, BARE = (("127.0.0.1", 443), ("127.0.0.2", 443), ("127.0.0.3", 443))
NAME = "localhost"
MIB = 512
CONNECTIONS = 2000
CLIENTS = 32
PIPE_BYTES = 256 * 1024
UP, DOWN, ONE = b"u", b"d", b"1"


def hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


HELLO = hello()


def each_in_a_thread(address: tuple[str, int], serve: Callable[[socket.socket], None]) -> None:
    listener = socket.create_server(address, backlog=512)
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=serve, args=(accepted,), daemon=True).start()


def serve_world(accepted: socket.socket) -> None:
    """Read a hello and a letter that says what to do."""
    with accepted, suppress(OSError):
        wanted = b""
        while len(wanted) <= len(HELLO):
            wanted += accepted.recv(len(HELLO) + 1 - len(wanted))
        if wanted[-1:] == DOWN:
            piece = bytes(1024 * 1024)
            for _ in range(MIB):
                accepted.sendall(piece)
        elif wanted[-1:] == UP:
            room = bytearray(1024 * 1024)
            while accepted.recv_into(room):
                pass
        accepted.sendall(b".")


def serve_bare(accepted: socket.socket) -> None:
    """The floor: connect, and splice both ways."""
    with accepted, socket.create_connection(SERVER) as server:
        back = threading.Thread(target=splice_all, args=(server, accepted))
        back.start()
        splice_all(accepted, server)
        back.join()


def splice_all(source: socket.socket, sink: socket.socket) -> None:
    read, write = os.pipe()
    with suppress(OSError):
        while count := os.splice(source.fileno(), write, PIPE_BYTES):
            while count:
                count -= os.splice(read, sink.fileno(), count)
        sink.shutdown(socket.SHUT_WR)
    os.close(read)
    os.close(write)


def carry(address: tuple[str, int], direction: bytes) -> float:
    """MiB a second, through *address*."""
    began = time.perf_counter()
    with socket.create_connection(address) as guest:
        guest.sendall(HELLO + direction)
        if direction == UP:
            piece = bytes(1024 * 1024)
            for _ in range(MIB):
                guest.sendall(piece)
            guest.shutdown(socket.SHUT_WR)
        room = bytearray(1024 * 1024)
        while guest.recv_into(room):
            pass
    return MIB / (time.perf_counter() - began)


def one(address: tuple[str, int]) -> float:
    """Milliseconds from dialling to the first byte."""
    began = time.perf_counter()
    with socket.create_connection(address) as guest:
        guest.sendall(HELLO + ONE)
        assert guest.recv(1) == b"."
    return (time.perf_counter() - began) * 1000


async def many(address: tuple[str, int], pid: int) -> float:
    """Connections for each second of the process's time."""
    loop = asyncio.get_running_loop()
    left = iter(range(CONNECTIONS))

    async def client() -> None:
        for _ in left:
            with socket.socket() as guest:
                guest.setblocking(False)
                await loop.sock_connect(guest, address)
                await loop.sock_sendall(guest, HELLO + ONE)
                assert await loop.sock_recv(guest, 1) == b"."

    before = cpu_s(pid)
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return CONNECTIONS / (cpu_s(pid) - before)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(rounds: int, bare: int) -> list[Row]:
    tcp = socket.create_server(GATEWAY, backlog=512)
    dns_tcp = socket.create_server((GATEWAY[0], 53))
    dns_udp = socket.socket(type=socket.SOCK_DGRAM)
    dns_udp.bind((GATEWAY[0], 53))
    client = GatewayClient(Upstream(allow_addresses=[f"{SERVER[0]}/32"], default_domains=[NAME]))
    await client.open()
    sandbox = new_sandbox_id()
    sockets = Sockets(-1, -1, tcp.fileno(), dns_udp.fileno(), dns_tcp.fileno())
    await client.admit(sandbox, sockets, NetworkSpec(TenantId("bench"), NetworkPolicy()), None)
    pid = client.pid
    assert pid is not None
    rows: dict[str, tuple[list[float], list[float]]] = {}

    def note(name: str, value: float, floor: float) -> None:
        values, floors = rows.setdefault(name, ([], []))
        values.append(value)
        floors.append(floor)

    for _ in range(rounds):
        for name, direction in (("download", DOWN), ("upload", UP)):
            floor = await asyncio.to_thread(carry, BARE, direction)
            note(name, await asyncio.to_thread(carry, GATEWAY, direction), floor)
        floor = await many(BARE, bare)
        note("connections", await many(GATEWAY, pid), floor)
        for _ in range(50):
            floor = await asyncio.to_thread(one, BARE)
            note("latency", await asyncio.to_thread(one, GATEWAY), floor)
    await client.close()
    for each in (tcp, dns_tcp, dns_udp):
        each.close()
    middle = {name: (statistics.median(values), statistics.median(floors)) for name, (values, floors) in rows.items()}
    rate, bare_rate = middle["connections"]
    late, bare_late = middle["latency"]
    return [
        at_least(0.7, "download ÷ bare splice", *middle["download"], "MiB/s"),
        at_least(0.7, "upload ÷ bare splice", *middle["upload"], "MiB/s"),
        Row("connections per core ÷ bare splice", rate, bare_rate, "/s", "≥ 2000/s", rate / bare_rate, rate >= 2000),
        Row("first byte ÷ bare splice", late, bare_late, "ms", "+ ≤ 1 ms", late / bare_late, late - bare_late <= 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    fork = multiprocessing.get_context("fork")
    world = fork.Process(target=each_in_a_thread, args=(SERVER, serve_world), daemon=True)
    bare = fork.Process(target=each_in_a_thread, args=(BARE, serve_bare), daemon=True)
    world.start()
    bare.start()
    assert bare.pid is not None
    time.sleep(1)
    show(asyncio.run(measure(rounds, bare.pid)))


if __name__ == "__main__":
    main()
