"""`python -m terpd.egress.netd`, with the socket to its parent as standard input."""

from __future__ import annotations

import contextlib
import socket
import sys

from terpd.egress.netd.serve import serve


def main() -> None:
    with socket.socket(fileno=sys.stdin.fileno()) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(sock)


main()
