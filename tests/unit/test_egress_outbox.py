"""Records on their way to terpd: batched, in order, before the acknowledgement that follows them, and bounded."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from support.until import until

from terpd.egress.gateway import outbox, wire
from terpd.egress.gateway.outbox import Outbox
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Decision, EgressRecord, Protocol, Reason


def _record(number: int) -> EgressRecord:
    return EgressRecord(
        id=str(number),
        sandbox_id=SandboxId("sbx"),
        tenant=TenantId("acme"),
        at=dt.datetime.now(dt.UTC),
        protocol=Protocol.TLS,
        name="a" * 253,
        address=None,
        port=443,
        decision=Decision.BLOCKED,
        reason=Reason.NAME_NOT_ALLOWED,
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, terpds = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, terpds:
        ours.setblocking(False)
        terpds.setblocking(False)
        yield ours, terpds


def _all(terpds: socket.socket) -> list[dict[str, Any]]:
    found = []
    try:
        while True:
            found.append(wire.receive(terpds)[0])
    except BlockingIOError:
        return found


async def test_an_acknowledgement_comes_after_the_records_before_it(pair: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(pair[0])
    for number in range(120):
        box.record(_record(number))
    box.acknowledge({"ack": 7})

    messages = _all(pair[1])

    assert [each["id"] for message in messages[:-1] for each in message["records"]] == [str(n) for n in range(120)]
    assert messages[-1] == {"ack": 7}


async def test_records_are_sent_without_an_acknowledgement(pair: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(pair[0])
    box.record(_record(1))
    found: list[dict[str, Any]] = []
    await until(lambda: found.extend(_all(pair[1])) or found)
    assert [each["id"] for each in found[0]["records"]] == ["1"]


async def test_if_terpd_does_not_read_the_oldest_are_dropped_and_counted(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MAX_RECORDS", 100)
    box = Outbox(pair[0])
    sent = 0
    for number in range(3000):
        box.record(_record(number))
        if number % 100 == 0:
            box.acknowledge({"ack": number})  # sends what there is, until the socket is full
        sent += 1
    box.acknowledge({"ack": "last"})

    found: list[dict[str, Any]] = []
    await until(lambda: found.extend(_all(pair[1])) or (found and found[-1] == {"ack": "last"}))

    ids = [int(each["id"]) for message in found for each in message.get("records", ())]
    assert ids == sorted(set(ids))
    assert ids[-1] == 2999
    assert sum(message.get("dropped", 0) for message in found) == sent - len(ids) > 0
