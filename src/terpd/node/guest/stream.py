"""
One call on the guest wire: what either side may send next. Pure bookkeeping.

    OPENED ──first reply──► RUNNING ──last reply──► COMPLETE ──END OK──► ended
       │                       │
       └───────────────────────┴──END with an error, or any END after CANCEL──► ended

Which replies a call may see, and in which order, stands in `GRAMMAR`. Calls that need no reply begin COMPLETE, and are
OVER when the one that they may see has come.
Source: proto/terp/agent/v1/agent.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from google.protobuf.message import DecodeError

from terpd.node.guest.agent_pb2 import ExecEntries, ExecOutput, FileEntries, FileEvent, Reply, Request, Status
from terpd.node.guest.frames import FrameType, Violation, decode_credit, encode, encode_credit
from terpd.node.guest.inbox import Chunk, Inbox

WINDOW_BYTES = 262_144
CREDIT_STEP_BYTES = WINDOW_BYTES // 4  # credit is returned in pieces of at least this, to save frames
MAX_OUTPUT_BYTES = 32_768
MAX_ENTRIES_PER_REPLY = 512
MAX_ENTRIES = 100_000
MAX_COMMANDS = 256  # that a guest keeps: background commands and terminals
MAX_OFFSET = 2**63 - 1


class Phase(Enum):
    OPENED = auto()
    RUNNING = auto()
    COMPLETE = auto()
    OVER = auto()


Grammar = Mapping[Phase, Mapping[str, Phase]]


def _once(reply: str) -> Grammar:
    return {Phase.OPENED: {reply: Phase.COMPLETE}}


_EXEC: Grammar = {
    Phase.OPENED: {"exec_started": Phase.RUNNING},
    Phase.RUNNING: {"exec_output": Phase.RUNNING, "exec_exited": Phase.COMPLETE},
}

GRAMMAR: Mapping[str, Grammar] = {
    "hello": _once("hello"),
    "wake": _once("wake"),
    "freeze": {Phase.COMPLETE: {"freeze": Phase.OVER}},
    "ping": {},
    "stats": _once("stats"),
    "exec_start": _EXEC,
    "exec_attach": _EXEC,
    "exec_signal": {},
    "exec_list": {
        Phase.OPENED: {"exec_entries": Phase.COMPLETE},
        Phase.COMPLETE: {"exec_entries": Phase.COMPLETE},
    },
    "exec_input": _once("exec_input"),
    "exec_resize": {},
    "exec_log": _once("exec_log"),
    "env_change": {},
    "env_list": _once("env_names"),
    "file_read": _once("file"),
    "file_write": _once("written"),
    "file_list": {Phase.OPENED: {"entries": Phase.COMPLETE}, Phase.COMPLETE: {"entries": Phase.COMPLETE}},
    "file_stat": _once("file"),
    "file_mkdir": {},
    "file_move": {},
    "file_remove": {},
    "file_watch": {Phase.OPENED: {"file_event": Phase.COMPLETE}, Phase.COMPLETE: {"file_event": Phase.COMPLETE}},
    "file_archive": {},
    "file_extract": _once("written"),
    "connect": _once("connected"),
    "volume_attach": {},
    "volume_detach": {},
}
_DETACHED_EXEC = _once("exec_started")
# What the agent answers with DATA, behind its reply if it has one.
_WITH_DATA = frozenset({"file_read", "file_archive", "exec_log", "connect"})

EVENT_COST_BYTES = 256  # of a file's event, besides its paths: what credit bounds is then memory


def _cost(event: FileEvent) -> int:
    return EVENT_COST_BYTES + len(event.path.encode()) + len(event.moved_from.encode())


def grammar_of(request: Request) -> Grammar:
    """What *request* may see; a command that is not followed says no more than that it was started."""
    start = request.exec_start
    if start.background or start.HasField("pty"):
        return _DETACHED_EXEC
    return GRAMMAR[request.WhichOneof("call") or ""]


class Stream:
    """
    Args:
        number: The stream number, as it stands in frames.
        call: The arm of `Request.call` that opened it.
        grammar: Where that depends on the request; else that of the call.
    """

    def __init__(self, number: int, call: str, grammar: Grammar | None = None) -> None:
        self.number = number
        self.call = call
        self.send_credit = WINDOW_BYTES
        self.first_offset: int | None = None
        self.status: Status | None = None
        self.cancelled = False
        self._inbox = Inbox()
        self._grammar = GRAMMAR[call] if grammar is None else grammar
        self._phase = Phase.OPENED if Phase.OPENED in self._grammar else Phase.COMPLETE
        self._finished = False  # the host has sent all its data
        self._data_ended = False  # the agent has
        self._receive_credit = WINDOW_BYTES
        self._taken = 0  # received and consumed, credit not yet returned
        self._next_offset: int | None = None
        self._entries = 0

    @property
    def closed_by_agent(self) -> bool:
        """Whether the agent has ended its data where the call goes on behind that."""
        return self._data_ended and self.call == "connect"

    # ---- the host's side

    def send(self, data: bytes) -> bytes:
        """Return the DATA frame for *data*, which is not empty and within `send_credit`."""
        assert 0 < len(data) <= self.send_credit
        assert not self._finished
        self.send_credit -= len(data)
        return encode(self.number, FrameType.DATA, data)

    def finish(self) -> bytes:
        """Return the frame that ends the host's data."""
        assert not self._finished
        self._finished = True
        return encode(self.number, FrameType.DATA)

    def cancel(self) -> bytes:
        """Return the CANCEL frame. What has arrived and what still comes is dropped."""
        self.cancelled = True
        self._inbox.clear()
        return encode(self.number, FrameType.CANCEL)

    def take(self) -> Reply | Chunk | None:
        """Remove the oldest thing received. Output taken counts as consumed."""
        item = self._inbox.take()
        if isinstance(item, Chunk):
            self._taken += len(item.data)
        elif item is not None and item.HasField("file_event"):
            self._taken += _cost(item.file_event)
        return item

    def credit_due(self) -> bytes | None:
        """Return the CREDIT frame that is worth sending now, if any."""
        if self._taken < CREDIT_STEP_BYTES or self.status is not None or self.cancelled:
            return None
        count, self._taken = self._taken, 0
        self._receive_credit += count
        return encode_credit(self.number, count)

    # ---- the agent's side

    def receive(self, kind: FrameType, payload: bytes) -> Violation | None:
        """Take a frame of the agent's for this stream; say what is wrong with it, if anything."""
        if kind is FrameType.DATA:
            return self._receive_data(payload)
        if kind is FrameType.MESSAGE:
            return self._receive_message(payload)
        if kind is FrameType.CREDIT:
            return self._receive_credit_frame(payload)
        return self._receive_end(payload)

    def _receive_data(self, payload: bytes) -> Violation | None:
        if self.call not in _WITH_DATA or self._phase is not Phase.COMPLETE or self._data_ended:
            return self._violation("DATA out of place")
        if not payload:
            self._data_ended = True
            return None
        return self._receive_output(0, payload)

    def _receive_output(self, source: int, data: bytes) -> Violation | None:
        self._receive_credit -= len(data)
        if self._receive_credit < 0:
            return self._violation("more data than it had credit for")
        if not self.cancelled:
            self._inbox.add_output(source, data)
        return None

    def _receive_message(self, payload: bytes) -> Violation | None:
        reply = Reply()
        try:
            reply.ParseFromString(payload)
        except DecodeError:
            return self._violation("a reply that cannot be parsed")
        kind = reply.WhichOneof("kind")
        following = self._grammar.get(self._phase, {}).get(kind or "")
        if following is None:
            return self._violation(f"reply {kind} out of place")
        self._phase = following
        if kind == "exec_output":
            return self._receive_exec_output(reply.exec_output)
        if kind == "file_event" and len(payload) > _cost(reply.file_event):
            return self._violation("an event with more in it than it tells")  # fields that nobody knows are kept, too
        wrong = self._count(kind or "", reply)
        if wrong is None and not self.cancelled:
            self._inbox.add(reply)
        return wrong

    def _count(self, kind: str, reply: Reply) -> Violation | None:
        """What a call may see more than one of has a bound."""
        if kind == "entries":
            return self._receive_entries(reply.entries)
        if kind == "exec_entries":
            return self._receive_commands(reply.exec_entries)
        if kind == "file_event":
            return self._receive_event(reply.file_event)
        return None

    def _receive_event(self, event: FileEvent) -> Violation | None:
        self._receive_credit -= _cost(event)
        if self._receive_credit < 0:
            return self._violation("more events than it had credit for")
        return None

    def _receive_exec_output(self, output: ExecOutput) -> Violation | None:
        size = len(output.data)
        if not 0 < size <= MAX_OUTPUT_BYTES:
            return self._violation(f"output of {size} bytes in one reply")
        if output.stream not in (ExecOutput.STDOUT, ExecOutput.STDERR):
            return self._violation("output of no known stream")
        if self._next_offset is None:
            self.first_offset = self._next_offset = output.offset
        if output.offset != self._next_offset or output.offset > MAX_OFFSET - size:
            return self._violation(f"output at offset {output.offset} instead of {self._next_offset}")
        self._next_offset += size
        return self._receive_output(int(output.stream), output.data)

    def _receive_entries(self, entries: FileEntries) -> Violation | None:
        """Only the first reply may be empty, so that a list ends."""
        count = len(entries.entries)
        if count > MAX_ENTRIES_PER_REPLY or (count == 0 and self._entries):
            return self._violation(f"{count} entries in one reply")
        self._entries += max(1, count)
        if self._entries > MAX_ENTRIES:
            return self._violation(f"more than {MAX_ENTRIES} entries")
        return None

    def _receive_commands(self, commands: ExecEntries) -> Violation | None:
        """As `_receive_entries`."""
        count = len(commands.entries)
        if count == 0 and self._entries:
            return self._violation("an empty reply behind others")
        self._entries += max(1, count)
        if self._entries > MAX_COMMANDS:
            return self._violation(f"more than {MAX_COMMANDS} commands")
        return None

    def _receive_credit_frame(self, payload: bytes) -> Violation | None:
        count = decode_credit(payload)
        if not count or self.send_credit + count > WINDOW_BYTES:
            return self._violation("credit for data it was not sent")
        self.send_credit += count
        return None

    def _receive_end(self, payload: bytes) -> Violation | None:
        status = Status()
        try:
            status.ParseFromString(payload)
        except DecodeError:
            return self._violation("a status that cannot be parsed")
        if status.code == Status.OK and not self.cancelled:
            if self._phase not in (Phase.COMPLETE, Phase.OVER):
                return self._violation("END before the reply")
            if self.call in {"file_write", "file_extract"} and not self._finished:
                return self._violation("END before the data")
        self.status = status
        return None

    def _violation(self, what: str) -> Violation:
        return Violation(f"{self.call}: {what}")
