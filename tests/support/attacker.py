"""Runs in a guest, as root: what the attacks of tests/fault have in common. Standard library only."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import socket
import ssl
import struct
import time
import traceback
from pathlib import Path

DEVICE = "eth0"
PATIENCE_S = 4.0
_MAX_FD = 1024
_SIOCSIFADDR = 0x8916  # linux/sockios.h


def said(error: BaseException) -> str:
    """*error* in one word or a few: `refused: access denied`."""
    return f"{type(error).__name__}: {error}"


def exchange(address: str, port: int, sent: bytes, *, patience_s: float = PATIENCE_S) -> bytes:
    """Connect, send, and return what comes back until the end; errors' names in the place of bytes."""
    received = b""
    try:
        with socket.create_connection((address, port), timeout=patience_s) as made:
            made.sendall(sent)
            while piece := made.recv(65536):
                received += piece
    except OSError as error:
        return received + said(error).encode()
    return received


def https(
    address: str, name: str | None, *, host: str | None = None, port: int = 443, patience_s: float = PATIENCE_S
) -> str:
    """The body of an answer, or why there is none. *host*: what the request within names."""
    try:
        with (
            socket.create_connection((address, port), timeout=patience_s) as plain,
            _unverified().wrap_socket(plain, server_hostname=name) as made,
        ):
            made.sendall(f"GET / HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n".encode())
            received = b""
            while piece := made.recv(65536):
                received += piece
    except OSError as error:
        return said(error)
    return received.partition(b"\r\n\r\n")[2].decode()


def question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


def ask(name: str, kind: int = 1, *, server: str = "198.18.0.1") -> str:
    """`rcode answers`, or `silence`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(PATIENCE_S)
        made.sendto(question(name, kind), (server, 53))
        try:
            answer = made.recv(4096)
        except OSError as error:
            return said(error)
    return f"{answer[3] & 15} {int.from_bytes(answer[6:8], 'big')}"


def datagram(address: str, port: int, family: int = socket.AF_INET) -> str:
    """What becomes of one UDP datagram: the answer, or the error."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as made:
            made.settimeout(1.5)
            made.connect((address, port))
            made.send(b"hello")
            return made.recv(100).decode()
    except OSError as error:
        return said(error)


def transmit(*each: bytes) -> None:
    """Put frames on the wire as they are."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
        made.bind((DEVICE, 0))
        for frame in each:
            made.send(frame)
    time.sleep(0.3)


def take_address(address: str) -> None:
    """Have another address as well."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16s16s8x", f"{DEVICE}:1".encode(), _sockaddr(address)))


def in_background(*kept: socket.socket) -> bool:
    """True in a child, which goes on when this attack has long answered; it must end with `os._exit`."""
    if os.fork() != 0:
        return False
    os.setsid()
    held = {each.fileno() for each in kept}
    for fd in set(range(_MAX_FD)) - held:
        with contextlib.suppress(OSError):
            os.close(fd)
    return True


def sum16(content: bytes) -> int:
    """The checksum of RFC 1071, of whole words."""
    total = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def serve() -> None:
    """Run what comes in, each in a child: starting Python for each takes seconds under emulation."""
    for name in ("in", "out"):
        os.mkfifo(name)
    os.write(1, b"ready")
    while True:
        with Path("in").open(encoding="ascii") as taken:
            source = base64.b64decode(taken.read())
        if os.fork() == 0:
            with Path("out").open("w", encoding="utf-8") as said, contextlib.redirect_stdout(said):
                try:
                    exec(compile(source, "attack", "exec"), globals())
                except BaseException:  # noqa: BLE001  told to the test
                    traceback.print_exc(file=said)
            os._exit(0)
        os.wait()


def _sockaddr(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    serve()
