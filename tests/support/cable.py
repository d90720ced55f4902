"""
The guest's end of its cable: raw frames into the TAP, and what comes back. And baits, sockets in the namespace that
must never be reached.

The kernel handles a frame within the write of it, so when an echo sent after it is answered, all is over.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self, TypeVar

from support import frames
from terpd.egress.base import Sockets
from terpd.egress.netd.syscalls import enter_network
from terpd.model.network import GATEWAY_ADDRESS

T = TypeVar("T")

_VNET_HEADER_BYTES = 10  # struct virtio_net_hdr, with no offloads asked for
_SENTINEL = 0xCAFE
_BAIT_PORTS = (22, 67, 123, 137, 443, 500, 1900, 3000, 3544, 4789, 5353, 8080)
_BAIT_PROTOCOLS = (2, 4, 6, 17, 41, 47, 50, 51, 89, 115, 132)
_MAX_FRAME_BYTES = 70_000


def in_namespace(namespace: int, act: Callable[[], T]) -> T:
    """Return what *act* returns, in a thread that lives in *namespace*."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter_network(namespace)
            results.append(act())
        except BaseException as error:  # noqa: BLE001  raised below, where it can be seen
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def set_network(name: str, value: int) -> None:
    """A sysctl of the calling thread's namespace."""
    Path(f"/proc/sys/net/{name}").write_text(f"{value}\n")


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet that the guest got."""

    protocol: int
    source: str
    to: str
    content: bytes

    @property
    def icmp(self) -> tuple[int, int]:
        """Type and code."""
        assert self.protocol == frames.ICMP, self
        return self.content[0], self.content[1]


class Cable:
    def __init__(self, tap: int) -> None:
        self._tap = tap

    def send(self, *sent: bytes) -> None:
        for frame in sent:
            os.write(self._tap, bytes(_VNET_HEADER_BYTES) + frame)

    def received(self) -> list[bytes]:
        """All frames that wait, without waiting for any."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(os.read(self._tap, _MAX_FRAME_BYTES)[_VNET_HEADER_BYTES:])
        return found

    def exchange(self, *sent: bytes) -> list[bytes]:
        """The frames that came back for those *sent*."""
        echo = frames.icmp(frames.ECHO_REQUEST, identifier=_SENTINEL)
        self.send(*sent, frames.ethernet(frames.ip(echo, GATEWAY_ADDRESS, protocol=frames.ICMP)))
        *answers, last = self.received()
        assert packet(last).content[4:6] == struct.pack("!H", _SENTINEL), "the echo was not answered last"
        return answers


def packet(frame: bytes) -> Packet:
    assert frame[12:14] == struct.pack("!H", frames.IP_TYPE), frame
    head = (frame[14] & 0xF) * 4
    source, to = IPv4Address(frame[26:30]), IPv4Address(frame[30:34])
    length = struct.unpack_from("!H", frame, 16)[0]
    return Packet(frame[23], str(source), str(to), frame[14 + head : 14 + length])


class Baits:
    """Sockets of every kind, made in the namespace. Use as a context."""

    def __init__(self, namespace: int) -> None:
        self._sockets = in_namespace(namespace, self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()

    def caught(self) -> list[str]:
        """What reached any of them, the cable's own echo left out."""
        return [catch for sock in self._sockets for catch in _caught(sock)]

    @staticmethod
    def _open() -> list[socket.socket]:
        opened = []
        for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for port in _BAIT_PORTS:
                    sock = socket.socket(family, kind)
                    opened.append(sock)
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    if kind == socket.SOCK_STREAM and port == 3000 and family == socket.AF_INET:
                        continue  # the gateway's
                    sock.bind((every, port))
                    if kind == socket.SOCK_STREAM:
                        sock.listen()
        opened += [socket.socket(socket.AF_INET, socket.SOCK_RAW, number) for number in (1, *_BAIT_PROTOCOLS)]
        opened += [socket.socket(socket.AF_INET6, socket.SOCK_RAW, number) for number in (6, 17, 58)]
        for sock in opened:
            sock.setblocking(False)
        return opened


def _caught(sock: socket.socket) -> Sequence[str]:
    name = f"{sock.family.name} {sock.type.name} {sock.proto} {sock.getsockname()}"
    found = []
    if sock.type == socket.SOCK_STREAM:
        with suppress(BlockingIOError, OSError):
            connection, _ = sock.accept()
            connection.close()
            found.append(name)
        return found
    with suppress(BlockingIOError):
        while True:
            content = sock.recv(_MAX_FRAME_BYTES)
            is_echo = sock.proto == frames.ICMP and content[24:26] == struct.pack("!H", _SENTINEL)
            if not is_echo:
                found.append(f"{name}: {content[:60]!r}")
    return found


def reached(sockets: Sockets) -> list[str]:
    """Which of the gateway's three sockets have something to accept or to read; it is taken."""
    found = []
    for name, fd in (("tcp", sockets.tcp), ("dns_tcp", sockets.dns_tcp)):
        with socket.socket(fileno=os.dup(fd)) as listener, suppress(BlockingIOError):
            connection, _ = listener.accept()
            with connection:
                found.append(f"{name} {connection.getsockname()}")
    with socket.socket(fileno=os.dup(sockets.dns_udp)) as sock, suppress(BlockingIOError):
        found.append(f"dns_udp {sock.recv(_MAX_FRAME_BYTES)!r}")
    return found


def handshake(cable: Cable, to: str, port: int, *, source_port: int = 40000) -> None:
    """Open a connection as a guest does."""
    opening = frames.tcp(to, port, source_port=source_port)
    (answer,) = cable.exchange(frames.ethernet(frames.ip(opening, to, protocol=frames.TCP)))
    got = packet(answer)
    assert got.source == to
    assert got.content[13] == frames.SYN | frames.ACK
    sequence = struct.unpack_from("!I", got.content, 4)[0]
    last = frames.tcp(to, port, flags=frames.ACK, source_port=source_port, sequence=1001, acknowledged=sequence + 1)
    cable.send(frames.ethernet(frames.ip(last, to, protocol=frames.TCP)))
