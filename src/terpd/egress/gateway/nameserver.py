"""The DNS server that a sandbox finds at every address, over UDP and TCP."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from ulid import ULID

from terpd.egress.gateway import dns
from terpd.egress.gateway.tls import Malformed
from terpd.egress.policy import decide
from terpd.model import names
from terpd.model.network import Decision, EgressRecord, Protocol, Reason

if TYPE_CHECKING:
    from terpd.egress.gateway.sandbox import Sandbox

PORT = 53
IP_PKTINFO = 8  # linux/in.h; not in Python's socket before 3.14
_BATCH = 32  # datagrams of one sandbox before others have their turn
_ANCILLARY_BYTES = socket.CMSG_SPACE(12)  # struct in_pktinfo
_TCP_IDLE_S = 10.0
_MAX_TCP_QUESTIONS = 100
_AGAIN_S = 60.0  # a blocked name is recorded once in this time
_MAX_RECORDS = 64  # of blocked questions in that time


class NameServer:
    """Answers questions; says which blocked ones are worth a record."""

    def __init__(self, sandbox: Sandbox, clock: Callable[[], float]) -> None:
        self._sandbox = sandbox
        self._clock = clock
        self._recorded: dict[str, float] = {}

    def reply(self, message: bytes) -> bytes | None:
        """The answer to a message; None for what deserves none."""
        try:
            question = dns.parse(message)
        except Malformed:
            return None
        if question.opcode != 0:
            return dns.answer(question, dns.NOTIMP)
        if question.dns_class != dns.IN or not question.labels:
            return dns.answer(question, dns.REFUSED)
        try:
            name = names.asked(question.name)
        except names.NameInvalid:
            return dns.answer(question, dns.NXDOMAIN)
        decision, reason = decide(self._sandbox.spec.policy, self._sandbox.allowed, Protocol.DNS, name, PORT)
        if name.endswith(".arpa") or decision is Decision.BLOCKED:
            if not name.endswith(".arpa"):  # nobody chose to ask for it: tools look up what address they see
                self._record(name, reason)
            return dns.answer(question, dns.NXDOMAIN)
        address = self._sandbox.names.address(name).packed if question.kind in {dns.A, dns.ANY} else None
        return dns.answer(question, dns.NOERROR, address)

    def serve_udp(self, listener: socket.socket) -> None:
        """Answer what waits, from the address that was asked."""
        for _ in range(_BATCH):
            try:
                message, ancillary, _, client = listener.recvmsg(dns.MAX_QUERY_BYTES + 1, _ANCILLARY_BYTES)
            except OSError:
                return
            reply = self.reply(message)
            if reply is not None:
                with contextlib.suppress(OSError):
                    listener.sendmsg([reply], _from_the_address_asked(ancillary), 0, client)

    async def serve_tcp(self, guest: socket.socket) -> None:
        """Answer one connection's questions, and close it."""
        loop = asyncio.get_running_loop()
        pending = bytearray()
        with guest, contextlib.suppress(OSError, EOFError, Malformed):
            for _ in range(_MAX_TCP_QUESTIONS):
                async with asyncio.timeout(_TCP_IDLE_S):
                    reply = self.reply(await _framed(loop, guest, pending))
                    if reply is None:
                        return
                    await loop.sock_sendall(guest, len(reply).to_bytes(2) + reply)

    def _record(self, name: str, reason: Reason) -> None:
        now = self._clock()
        if name in self._recorded and self._recorded[name] > now:
            return
        if len(self._recorded) >= _MAX_RECORDS:
            self._recorded = {name: until for name, until in self._recorded.items() if until > now}
            if len(self._recorded) >= _MAX_RECORDS:
                return
        self._recorded[name] = now + _AGAIN_S
        self._sandbox.world.record(
            EgressRecord(
                id=str(ULID()),
                sandbox_id=self._sandbox.id,
                tenant=self._sandbox.spec.tenant,
                at=dt.datetime.now(dt.UTC),
                protocol=Protocol.DNS,
                name=name,
                address=None,
                port=PORT,
                decision=Decision.BLOCKED,
                reason=reason,
            )
        )


def _from_the_address_asked(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) == 12:
            asked = ipaddress.IPv4Address(data[8:12])
            return [(level, kind, struct.pack("=I4s4s", 0, asked.packed, bytes(4)))]
    return []


async def _framed(loop: asyncio.AbstractEventLoop, guest: socket.socket, pending: bytearray) -> bytes:
    """Return the next message. Raises EOFError, Malformed."""
    while True:
        if len(pending) >= 2:
            length = int.from_bytes(pending[:2])
            if length > dns.MAX_QUERY_BYTES:
                raise Malformed("a long question")
            if len(pending) >= 2 + length:
                message = bytes(pending[2 : 2 + length])
                del pending[: 2 + length]
                return message
        received = await loop.sock_recv(guest, 4096)
        if not received:
            raise EOFError
        pending += received
