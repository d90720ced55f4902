"""
One session on the agent channel: its streams, and which of them a frame is for. Pure bookkeeping.

Everything an agent may send is limited by something the host did: replies by the calls' grammar, data by credit,
credit by data. Only frames for streams that are over have no such limit, so they get one here.
"""

from __future__ import annotations

from terpd.node.guest.agent_pb2 import Request
from terpd.node.guest.frames import Frame, Violation, encode_request
from terpd.node.guest.stream import Stream, grammar_of

MAX_STREAMS = 256
MAX_STRAYS_PER_STREAM = 16  # an agent's threads may answer a little after the end; a flood is something else


class Session:
    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._strays = 0

    @property
    def full(self) -> bool:
        """Whether no further call may be opened now."""
        return len(self._streams) >= MAX_STREAMS

    def open(self, request: Request) -> tuple[Stream, bytes]:
        """Return a new stream and the frames that open it. The session is not full, *request* at most 1 MiB."""
        assert not self.full
        call = request.WhichOneof("call")
        assert call is not None
        frames = encode_request(self._last + 1, request.SerializeToString())
        self._last += 1
        stream = self._streams[self._last] = Stream(self._last, call, grammar_of(request))
        return stream, frames

    def receive(self, frame: Frame) -> Stream | Violation | None:
        """Take a frame; return the stream that it changed, or what is wrong with it. None: it is to be ignored."""
        stream = self._streams.get(frame.stream)
        if stream is None:
            return self._receive_stray(frame)
        wrong = stream.receive(frame.kind, frame.payload)
        if wrong is not None:
            return wrong
        if stream.status is not None:
            del self._streams[frame.stream]
        return stream

    def _receive_stray(self, frame: Frame) -> Violation | None:
        if not 0 < frame.stream <= self._last:
            return Violation(f"frame for stream {frame.stream}, which was never opened")
        self._strays += 1
        if self._strays > MAX_STRAYS_PER_STREAM * self._last:
            return Violation("a flood of frames for streams that are over")
        return None
