"""Messages between terpd and the gateway."""

from __future__ import annotations

import datetime as dt
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from terpd.egress.base import Authority
from terpd.egress.gateway import wire
from terpd.model.ids import TenantId, new_sandbox_id
from terpd.model.network import Credential, Decision, EgressRecord, NetworkPolicy, NetworkSpec, Protocol, Reason

RECORD = EgressRecord(
    "id", new_sandbox_id(), TenantId("acme"), dt.datetime.now(dt.UTC), Protocol.TLS, "a.example", None, 443,
    Decision.BLOCKED, Reason.NAME_NOT_ALLOWED,
)  # fmt: skip


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.mark.parametrize("size", [10, wire.MAX_MESSAGE_BYTES, 1_000_000])
def test_messages_of_any_size_arrive_with_their_descriptors(
    size: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    before = _open_descriptors()
    with Path(os.devnull).open() as file:
        wire.send(pair[0], {"text": "x" * size}, [file.fileno()] * 3)
    message, fds = wire.receive(pair[1])
    assert message == {"text": "x" * size}
    assert len(fds) == 3
    for fd in fds:
        os.close(fd)
    assert _open_descriptors() == before


def test_a_full_socket_is_told_and_an_ended_one(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        wire.receive(pair[1])
    with pytest.raises(BlockingIOError):
        _fill(pair[0])
    pair[0].close()
    with pytest.raises(EOFError):
        _empty(pair[1])


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _fill(control: socket.socket) -> None:
    for _ in range(10_000):
        wire.send(control, {"text": "x" * 60_000})


def _empty(control: socket.socket) -> None:
    while True:
        wire.receive(control)


def test_what_is_sent_is_what_arrives() -> None:
    credential = Credential("openai", ("api.example",), "authorization", "terp-secret", "value")
    network = NetworkSpec(
        TenantId("acme"), NetworkPolicy(allow_domains=("a.example",)), (credential,), ("deb.example",)
    )
    got = wire.to_network(wire.from_network(network))
    assert got is not None
    assert (got.tenant, got.policy.open, list(got.policy.allow_domains or ())) == ("acme", False, ["a.example"])
    assert list(got.package_hosts) == ["deb.example"]
    assert got.credentials[0] == credential
    assert wire.to_authority(wire.from_authority(Authority(b"\xff", b"key"))) == Authority(b"\xff", b"key")
    assert wire.to_record(wire.from_record(RECORD)) == RECORD
