"""
Frames of the agent channel: bytes in, frames out. No socket, no clock, no knowledge of what a frame means.

    SEARCHING ──preface found──► FRAMES ──┐
        │                          │      │ whole frames
        │ 4 MiB without it         │ ◄────┘
        ▼                          ▼ bad length or type
      FAULTY ◄─────────────────────┘

A decoder is good for one session. It never holds more than one frame and the chunk that was fed last, whatever
arrives. Source: proto/terp/agent/v1/FRAMING.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

MAGIC = bytes.fromhex("F4A9D5C8EE93B18DFAC397E1BCA6D29F")
NONCE_BYTES = 16
PREFACE_BYTES = len(MAGIC) + NONCE_BYTES

HEADER = struct.Struct(">IIB")
MAX_PAYLOAD_BYTES = 65_536
MAX_REQUEST_BYTES = 1_048_576
MAX_LEFTOVER_BYTES = 4 * 1024 * 1024
DRAIN = bytes(HEADER.size + MAX_PAYLOAD_BYTES)  # completes any cut-off frame and then reads as PAD frames

_CREDIT = struct.Struct(">I")


class FrameType(IntEnum):
    PAD = 0
    OPEN = 1
    MESSAGE = 2
    DATA = 3
    CREDIT = 4
    END = 5
    CANCEL = 6
    PART = 7


FROM_AGENT = frozenset({FrameType.MESSAGE, FrameType.DATA, FrameType.CREDIT, FrameType.END})
_AGENT_TYPES = {int(kind): kind for kind in FROM_AGENT}


class Frame(NamedTuple):
    stream: int
    kind: FrameType
    payload: bytes


@dataclass(frozen=True, slots=True)
class Violation:
    """What the guest did that the protocol does not allow. The session is over."""

    reason: str


def preface(nonce: bytes) -> bytes:
    """Return the bytes that begin a session, and that the agent echoes. *nonce* is 16 fresh random bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes: {len(nonce)}")
    return MAGIC + nonce


def encode(stream: int, kind: FrameType, payload: bytes = b"") -> bytes:
    """Return one frame. *payload* has at most 65,536 bytes."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a frame carries at most {MAX_PAYLOAD_BYTES} bytes: {len(payload)}")
    return HEADER.pack(len(payload), stream, kind) + payload


def encode_request(stream: int, request: bytes) -> bytes:
    """Return the OPEN frame of *request* (at most 1 MiB), behind PART frames where one frame is too small."""
    if len(request) > MAX_REQUEST_BYTES:
        raise ValueError(f"a request has at most {MAX_REQUEST_BYTES} bytes: {len(request)}")
    last = max(0, len(request) - 1) // MAX_PAYLOAD_BYTES * MAX_PAYLOAD_BYTES
    parts = [
        encode(stream, FrameType.PART, request[at : at + MAX_PAYLOAD_BYTES]) for at in range(0, last, MAX_PAYLOAD_BYTES)
    ]
    return b"".join([*parts, encode(stream, FrameType.OPEN, request[last:])])


def encode_credit(stream: int, count: int) -> bytes:
    return encode(stream, FrameType.CREDIT, _CREDIT.pack(count))


def decode_credit(payload: bytes) -> int | None:
    """Return the bytes granted, or None when *payload* is none of a CREDIT frame."""
    if len(payload) != _CREDIT.size:
        return None
    count: int = _CREDIT.unpack(payload)[0]
    return count


class Decoder:
    """
    Turns what an agent sends into frames, once the expected preface was seen.

    Args:
        expected: The whole preface this session was begun with.
    """

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._buffer = bytearray()
        self._skipped = 0
        self._synchronized = False
        self._violation: Violation | None = None

    @property
    def synchronized(self) -> bool:
        """Whether the agent has answered the preface."""
        return self._synchronized

    def feed(self, data: bytes) -> tuple[list[Frame], Violation | None]:
        """
        Take what was read from the channel, cut anywhere.

        Returns:
            The frames that are complete now, and why no more will follow. After a violation nothing is taken.
        """
        frames: list[Frame] = []
        if self._violation is None:
            self._buffer += data
            if self._synchronized or self._search():
                self._split(frames)
        if self._violation is not None:
            self._buffer.clear()
        return frames, self._violation

    def _search(self) -> bool:
        found = self._buffer.find(self._expected)
        skipped = found if found >= 0 else max(0, len(self._buffer) - len(self._expected) + 1)
        self._skipped += skipped
        if self._skipped > MAX_LEFTOVER_BYTES:
            self._violation = Violation(f"no answer to the preface within {MAX_LEFTOVER_BYTES} bytes")
            return False
        if found < 0:
            del self._buffer[:skipped]
            return False
        del self._buffer[: found + len(self._expected)]
        self._synchronized = True
        return True

    def _split(self, frames: list[Frame]) -> None:
        buffer = self._buffer
        size = len(buffer)
        at = 0
        with memoryview(buffer) as view:
            while size - at >= HEADER.size:
                length, stream, code = HEADER.unpack_from(buffer, at)
                kind = _AGENT_TYPES.get(code)
                if kind is None or length > MAX_PAYLOAD_BYTES:
                    self._violation = Violation(f"frame of type {code} with {length} bytes")
                    break
                end = at + HEADER.size + length
                if end > size:
                    break
                frames.append(Frame(stream, kind, bytes(view[at + HEADER.size : end])))
                at = end
        del buffer[:at]
