"""
DNS messages of guests (RFC 1035), read strictly and answered without asking anybody.

An allowed name has an address, a synthetic one, and nothing else; any other name does not exist.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from terpd.egress.gateway.tls import Malformed

MAX_QUERY_BYTES = 1232  # more than a question and its options ever are (DNS flag day 2020)
A = 1
IN = 1
ANY = 255
TTL_S = 30
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5
_HEADER = struct.Struct("!6H")
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080
_MAX_LABEL_BYTES = 63


@dataclass(frozen=True, slots=True)
class Question:
    """
    Attributes:
        id: Of the message.
        flags: Its second word.
        labels: Of the name, as sent.
        raw: The question section, as it is repeated in the answer.
    """

    id: int
    flags: int
    labels: tuple[bytes, ...]
    kind: int
    dns_class: int
    raw: bytes

    @property
    def opcode(self) -> int:
        return self.flags >> 11 & 15

    @property
    def name(self) -> bytes:
        return b".".join(self.labels)


def parse(message: bytes) -> Question:
    """
    Read a query with one question. What follows it (EDNS options) is not looked at.

    Raises:
        Malformed: Also a response, and a name with compression, which a question has no use for.
    """
    if not _HEADER.size <= len(message) <= MAX_QUERY_BYTES:
        raise Malformed("no message of DNS")
    number, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if flags & _RESPONSE or questions != 1 or answers:
        raise Malformed("not one question")
    at = _HEADER.size
    labels: list[bytes] = []
    while True:
        if at >= len(message):
            raise Malformed("a name ends early")
        length = message[at]
        label = message[at + 1 : at + 1 + length]
        at += 1 + length
        if length == 0:
            break
        if length > _MAX_LABEL_BYTES or len(label) < length or b"." in label or at - _HEADER.size > 254:
            raise Malformed("no name")
        labels.append(label)
    if at + 4 > len(message):
        raise Malformed("a question ends early")
    kind, dns_class = struct.unpack_from("!2H", message, at)
    return Question(number, flags, tuple(labels), kind, dns_class, message[_HEADER.size : at + 4])


def answer(question: Question, code: int, address: bytes | None = None) -> bytes:
    """
    Args:
        code: NOERROR, NXDOMAIN, …
        address: Four bytes, answered to questions for A; None for none.
    """
    flags = _RESPONSE | (question.flags & (0x7800 | _RECURSION_DESIRED)) | _AUTHORITATIVE | _RECURSION_AVAILABLE | code
    head = _HEADER.pack(question.id, flags, 1, 1 if address else 0, 0, 0) + question.raw
    if address is None:
        return head
    return head + struct.pack("!3HIH", 0xC00C, A, IN, TTL_S, len(address)) + address
