"""The helper's loop: a request, an answer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from terpd.egress.netd import wire
from terpd.egress.netd.namespace import Helper
from terpd.egress.netd.rules import RulesRefused, load_library

_MAX_PORT = 65535
_FDS_OF = {"create": 0, "adopt": 1, "connect": 1}


def serve(sock: socket.socket) -> None:
    """Until the other end closes."""
    try:
        load_library()
        helper = Helper()
    except (OSError, RulesRefused) as error:
        wire.send(sock, {"id": wire.HELLO_ID, "error": refusal(error)})
        return
    wire.send(sock, {"id": wire.HELLO_ID})
    while True:
        try:
            message = wire.receive(sock)
        except wire.Malformed as error:
            wire.send(sock, {"id": None, "error": {"kind": wire.INVALID, "text": str(error)}})
            continue
        if message is None:
            return
        try:
            answer(sock, helper, message)
        finally:
            wire.close_all(message.fds)


def answer(sock: socket.socket, helper: Helper, message: wire.Message) -> None:
    """Carry one request out. Its own descriptors stay open, and what it made is closed here once it is sent."""
    body: dict[str, object] = {"id": message.body.get("id")}
    made: Sequence[int] = ()
    try:
        made = _carry_out(helper, message)
    except ValueError as error:
        body["error"] = {"kind": wire.INVALID, "text": str(error)}
    except (OSError, RulesRefused) as error:
        body["error"] = refusal(error)
    try:
        wire.send(sock, body, made)
    finally:
        wire.close_all(made)


def _carry_out(helper: Helper, message: wire.Message) -> Sequence[int]:
    operation, fds = message.body.get("op"), message.fds
    if not isinstance(operation, str) or operation not in _FDS_OF:
        raise ValueError("unknown operation")
    if len(fds) != _FDS_OF[operation]:
        raise ValueError(f"{operation} takes {_FDS_OF[operation]} descriptors and not {len(fds)}")
    if operation == "create":
        return helper.create()
    if operation == "adopt":
        return helper.adopt(fds[0])
    port = message.body.get("port")
    if type(port) is not int or not 0 < port <= _MAX_PORT:
        raise ValueError(f"the port is to be 1 to {_MAX_PORT}")
    return helper.connect(fds[0], port)


def refusal(error: OSError | RulesRefused) -> dict[str, str]:
    if isinstance(error, RulesRefused):
        return {"kind": wire.REFUSED, "text": str(error)}
    if error.errno == errno.EADDRINUSE:
        return {"kind": wire.BUSY, "text": "The former gateway still holds the sockets"}
    advice = {
        errno.EPERM: "Run terpd as root; in a container, with the capabilities SYS_ADMIN and NET_ADMIN",
        errno.EACCES: "Run terpd as root",
        errno.ENOENT: "Networks need /dev/net/tun: load the module tun; in a container, pass the device on",
        errno.ENODEV: "Networks need /dev/net/tun: load the module tun",
        errno.ENOSPC: "No more network namespaces: raise the sysctl user.max_net_namespaces",
        errno.EMFILE: "Out of descriptors: raise LimitNOFILE",
        errno.ENFILE: "Out of descriptors: raise the sysctl fs.file-max",
    }.get(error.errno or 0, "The host refuses")
    where = f" ({os.fspath(error.filename)!s})" if error.filename else ""
    return {"kind": wire.REFUSED, "text": f"{advice}: {error.strerror or error}{where}"}
