"""
The messages between terpd and the gateway: JSON over a SOCK_SEQPACKET pair, descriptors beside it.

    terpd → gateway   {do: configure, upstream}                              first, and once
                      {do: admit, n, sandbox, network?, authority?} + tcp, dns_udp, dns_tcp
                      {do: update, n, sandbox, network}   {do: dismiss, n, sandbox}
    gateway → terpd   {ready: true}   {ack: n, error?}   {records: […], dropped}

A message of more than 64 KiB, as a list of long credentials makes, goes in a memory file beside {file: length}.
"""

from __future__ import annotations

import array
import base64
import datetime as dt
import json
import mmap
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from terpd.egress.base import Authority
from terpd.egress.upstream import Upstream
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Credential, Decision, EgressRecord, NetworkPolicy, NetworkSpec, Protocol, Reason

MAX_MESSAGE_BYTES = 64 * 1024
_MAX_FILE_BYTES = 16 * 1024 * 1024
_MAX_FDS = 4
_FILE = "file"
_RECORD = tuple(each.name for each in fields(EgressRecord))


def send(control: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Raises BlockingIOError when the other side has too much to read; nothing was sent then."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= MAX_MESSAGE_BYTES:
        socket.send_fds(control, [data], fds)
        return
    file = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, len(data))
        with mmap.mmap(file, len(data)) as content:
            content.write(data)
        socket.send_fds(control, [json.dumps({_FILE: len(data)}).encode()], [*fds, file])
    finally:
        os.close(file)


def receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """
    Return the next message and its descriptors, which are the caller's to close.

    Raises:
        EOFError: The other side is gone.
        BlockingIOError: There is none.
    """
    data, fds = _receive(control)
    if not data:
        raise EOFError
    message: dict[str, Any] = json.loads(data)
    if _FILE in message and fds:
        file = fds.pop()
        try:
            data = os.pread(file, min(message[_FILE], _MAX_FILE_BYTES), 0)
        finally:
            os.close(file)
        message = json.loads(data)
    return message, fds


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    numbers = array.array("i")
    room = socket.CMSG_SPACE(_MAX_FDS * numbers.itemsize)
    data, ancillary, _, _ = control.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers)


def from_network(network: NetworkSpec | None) -> dict[str, Any] | None:
    return None if network is None else asdict(network)


def to_network(found: Mapping[str, Any] | None) -> NetworkSpec | None:
    if found is None:
        return None
    credentials = tuple(Credential(**each) for each in found["credentials"])
    return NetworkSpec(TenantId(found["tenant"]), NetworkPolicy(**found["policy"]), credentials, found["package_hosts"])


def from_authority(authority: Authority | None) -> dict[str, str] | None:
    if authority is None:
        return None
    return {name: base64.b64encode(value).decode() for name, value in asdict(authority).items()}


def to_authority(found: Mapping[str, str] | None) -> Authority | None:
    if found is None:
        return None
    return Authority(**{name: base64.b64decode(value) for name, value in found.items()})


def from_upstream(upstream: Upstream) -> dict[str, Any]:
    return asdict(upstream)


def to_upstream(found: Mapping[str, Any]) -> Upstream:
    return Upstream(**found)


def from_record(record: EgressRecord) -> dict[str, Any]:
    # Not by asdict, which copies all values deeply: it would be a tenth of a short connection's cost.
    return {**{name: getattr(record, name) for name in _RECORD}, "at": record.at.isoformat()}


def to_record(found: Mapping[str, Any]) -> EgressRecord:
    return replace(
        EgressRecord(**found),
        sandbox_id=SandboxId(found["sandbox_id"]),
        at=dt.datetime.fromisoformat(found["at"]),
        protocol=Protocol(found["protocol"]),
        decision=Decision(found["decision"]),
        reason=Reason(found["reason"]),
    )
