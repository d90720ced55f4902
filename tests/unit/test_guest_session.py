"""Streams and sessions: what either side may send next, and in how much memory it waits."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest import session as session_module
from terpd.node.guest.frames import HEADER, Frame, FrameType, Violation, decode_credit, encode_credit
from terpd.node.guest.inbox import CHUNK_BYTES, Chunk, Inbox
from terpd.node.guest.session import Session
from terpd.node.guest.stream import GRAMMAR, MAX_COMMANDS, MAX_ENTRIES, WINDOW_BYTES, Phase, Stream, grammar_of

REQUESTS = {
    "hello": wire.Request(hello=wire.Hello()),
    "ping": wire.Request(ping=wire.Ping()),
    "exec_start": wire.Request(exec_start=wire.ExecStart()),
    "file_read": wire.Request(file_read=wire.FileRead()),
    "file_write": wire.Request(file_write=wire.FileWrite()),
    "file_list": wire.Request(file_list=wire.FileList()),
}


def stream(call: str) -> Stream:
    return Stream(1, call)


def say(to: Stream, **reply: object) -> Violation | None:
    return to.receive(FrameType.MESSAGE, wire.Reply(**reply).SerializeToString())


def output(data: bytes, offset: int, source: int = 0) -> wire.ExecOutput:
    return wire.ExecOutput(stream=source, data=data, offset=offset)


def end(to: Stream, code: int = wire.Status.OK) -> Violation | None:
    return to.receive(FrameType.END, wire.Status(code=code).SerializeToString())


def running() -> Stream:
    exec_stream = stream("exec_start")
    assert say(exec_stream, exec_started=wire.ExecStarted(pid=2)) is None
    exec_stream.take()
    return exec_stream


def test_every_call_of_the_wire_has_a_grammar() -> None:
    """The table of calls and the oneof of requests name the same arms."""
    assert set(GRAMMAR) == {field.name for field in wire.Request.DESCRIPTOR.oneofs_by_name["call"].fields}


def test_an_exec_says_started_output_exited_and_end() -> None:
    """The events of a command arrive in order, and END OK is accepted after them."""
    call = stream("exec_start")
    assert say(call, exec_started=wire.ExecStarted(pid=2)) is None
    assert say(call, exec_output=output(b"one", 0)) is None
    assert say(call, exec_output=output(b"two", 3, source=1)) is None
    assert say(call, exec_exited=wire.ExecExited(exit_code=3)) is None
    assert end(call) is None
    taken = [call.take() for _ in range(5)]
    assert isinstance(taken[0], wire.Reply)
    assert taken[1:3] == [Chunk(0, b"one"), Chunk(1, b"two")]
    assert isinstance(taken[3], wire.Reply)
    assert taken[4] is None


@pytest.mark.parametrize("call", sorted(GRAMMAR))
@pytest.mark.parametrize("arm", sorted(field.name for field in wire.Reply.DESCRIPTOR.oneofs_by_name["kind"].fields))
def test_a_reply_that_the_call_does_not_have_is_a_violation(call: str, arm: str) -> None:
    """As a first reply, each call takes exactly the arms that its grammar begins with."""
    reply = wire.Reply()
    getattr(reply, arm).SetInParent()
    allowed = any(arm in arms for arms in list(GRAMMAR[call].values())[:1])
    assert (stream(call).receive(FrameType.MESSAGE, reply.SerializeToString()) is None) is allowed


@pytest.mark.parametrize("call", sorted(call for call, grammar in GRAMMAR.items() if Phase.OPENED in grammar))
def test_end_ok_before_the_reply_is_a_violation(call: str) -> None:
    """A call that has a reply cannot end well without it, but may fail without it."""
    assert end(stream(call)) is not None
    assert end(stream(call), wire.Status.INTERNAL) is None


def test_a_write_that_ends_well_before_its_data_is_a_violation() -> None:
    """The agent cannot have written what the host has not finished sending."""
    call = stream("file_write")
    assert say(call, written=wire.FileWritten(size=0)) is None
    assert end(call) is not None


def test_a_reply_after_the_last_one_is_a_violation() -> None:
    """Nothing but END follows an exit."""
    call = running()
    assert say(call, exec_exited=wire.ExecExited()) is None
    assert say(call, exec_output=output(b"x", 0)) is not None


@pytest.mark.parametrize(
    "bad",
    [
        output(b"", 0),
        output(bytes(32_769), 0),
        output(b"x", 0, source=2),
        output(b"x", 2**63 - 1),
    ],
    ids=["empty", "too long", "no such stream", "offset near the end of numbers"],
)
def test_output_that_cannot_be_is_a_violation(bad: wire.ExecOutput) -> None:
    """Each bound on one piece of output holds."""
    assert say(running(), exec_output=bad) is not None


@pytest.mark.parametrize("offset", [0, 9, 11, 2**62])
def test_offsets_neither_jump_nor_repeat(offset: int) -> None:
    """After the first piece of output, the next one begins where it ended."""
    call = running()
    assert say(call, exec_output=output(b"x" * 10, 0)) is None
    assert say(call, exec_output=output(b"y", offset)) is not None


def test_an_agent_without_credit_may_send_no_more() -> None:
    """A whole window is taken, one byte more is a violation."""
    call = stream("file_read")
    assert say(call, file=wire.FileInfo(size=1 << 40)) is None
    for _ in range(4):
        assert call.receive(FrameType.DATA, bytes(65_536)) is None
    assert call.receive(FrameType.DATA, b"x") is not None


def test_credit_comes_back_as_data_is_taken() -> None:
    """What the host took is granted again, exactly, so the agent may send as much once more."""
    call = stream("file_read")
    assert say(call, file=wire.FileInfo(size=1 << 40)) is None
    call.take()
    granted = 0
    for _ in range(16):
        assert call.receive(FrameType.DATA, bytes(65_536)) is None
        assert call.take() is not None
        frame = call.credit_due()
        granted += 0 if frame is None else decode_credit(frame[HEADER.size :]) or 0
    assert granted == 16 * 65_536


def test_data_after_its_end_or_in_other_calls_is_a_violation() -> None:
    """DATA from the agent belongs to file_read alone, after its reply and before its end."""
    assert stream("ping").receive(FrameType.DATA, b"x") is not None
    assert running().receive(FrameType.DATA, b"x") is not None
    call = stream("file_read")
    assert call.receive(FrameType.DATA, b"x") is not None
    call = stream("file_read")
    assert say(call, file=wire.FileInfo(size=5)) is None
    assert call.receive(FrameType.DATA, b"") is None
    assert call.receive(FrameType.DATA, b"x") is not None


@pytest.mark.parametrize("count", [0, 1, 11, 2**32 - 1])
def test_credit_for_what_was_not_sent_is_a_violation(count: int) -> None:
    """No credit frame lifts the host's credit above the window, and none is empty."""
    call = stream("file_write")
    call.send(b"0123456789")
    good = 1 <= count <= 10
    frame = encode_credit(1, count)[HEADER.size :]
    assert (call.receive(FrameType.CREDIT, frame) is None) is good
    assert call.send_credit <= WINDOW_BYTES


@pytest.mark.parametrize("kind", [FrameType.MESSAGE, FrameType.END])
def test_what_is_no_protobuf_is_a_violation(kind: FrameType) -> None:
    """Garbage in place of a message does not raise."""
    assert stream("exec_start").receive(kind, b"\xff\xff\xff\xff") is not None


def test_text_that_is_not_utf8_is_a_violation() -> None:
    """A string field with other bytes is refused as a whole."""
    assert stream("hello").receive(FrameType.MESSAGE, b"\x0a\x03\x12\x01\xff") is not None


def test_a_list_ends() -> None:
    """Empty replies cannot go on for ever, nor can full ones."""
    empty = wire.FileEntries()
    full = wire.FileEntries(entries=[wire.FileInfo(name="n")] * 512)
    call = stream("file_list")
    assert say(call, entries=empty) is None
    assert say(call, entries=empty) is not None
    call = stream("file_list")
    replies = 0
    while say(call, entries=full) is None:
        replies += 1
    assert replies == MAX_ENTRIES // 512
    oversize = wire.FileEntries(entries=[wire.FileInfo()] * 513)
    assert say(stream("file_list"), entries=oversize) is not None


def test_a_cancelled_call_keeps_nothing_and_may_end_any_way() -> None:
    """After CANCEL what comes is checked and dropped, and END OK needs no reply."""
    call = running()
    assert say(call, exec_output=output(b"before", 0)) is None
    call.cancel()
    assert say(call, exec_output=output(b"after", 6)) is None
    assert call.take() is None
    assert end(call) is None


def test_a_session_numbers_streams_and_forgets_those_that_ended() -> None:
    """Streams are 1, 2, 3 …; a frame reaches its own, and END frees the place."""
    session = Session()
    first, _ = session.open(REQUESTS["ping"])
    second, _ = session.open(REQUESTS["ping"])
    assert (first.number, second.number) == (1, 2)
    assert session.receive(Frame(2, FrameType.END, b"")) is second
    assert second.status is not None
    assert first.status is None


@pytest.mark.parametrize("number", [0, 2, 2**32 - 1])
def test_a_frame_for_a_stream_that_was_never_opened_is_a_violation(number: int) -> None:
    """An agent cannot speak first."""
    session = Session()
    session.open(REQUESTS["ping"])
    assert isinstance(session.receive(Frame(number, FrameType.END, b"")), Violation)


def test_frames_for_streams_that_are_over_are_ignored_within_reason() -> None:
    """A late frame is no fault, a flood of them is."""
    session = Session()
    session.open(REQUESTS["ping"])
    session.receive(Frame(1, FrameType.END, b""))
    late = Frame(1, FrameType.CREDIT, b"\0\0\0\1")
    ignored = 0
    while session.receive(late) is None:
        ignored += 1
    assert ignored == session_module.MAX_STRAYS_PER_STREAM


def test_a_session_has_a_bound_on_its_calls() -> None:
    """Calls under way are limited; one that ends makes room."""
    session = Session()
    while not session.full:
        session.open(REQUESTS["ping"])
    session.receive(Frame(1, FrameType.END, b""))
    assert not session.full


class Pieces:
    """A plain list of what went into an inbox, to compare with."""

    def __init__(self) -> None:
        self.bytes: list[tuple[int, int]] = []

    def add(self, source: int, data: bytes) -> None:
        self.bytes += [(source, byte) for byte in data]


@given(
    st.lists(
        st.one_of(st.tuples(st.integers(0, 1), st.binary(min_size=1, max_size=50)), st.none()),
        max_size=200,
    )
)
def test_output_leaves_an_inbox_in_the_order_it_came(steps: list[tuple[int, bytes] | None]) -> None:
    """Bytes keep their order and their stream, however adding (a pair) and taking (None) alternate."""
    inbox, put, got = Inbox(), Pieces(), Pieces()
    for step in [*steps, *[None] * len(steps)]:
        if step is not None:
            inbox.add_output(*step)
            put.add(*step)
        elif (chunk := inbox.take()) is not None:
            assert isinstance(chunk, Chunk)
            assert 0 < len(chunk.data) <= CHUNK_BYTES
            got.add(*chunk)
    assert got.bytes == put.bytes


def test_output_byte_by_byte_from_two_streams_stays_small() -> None:
    """A full window of one-byte pieces, the streams in turn, takes a few bytes each and not an object each."""
    inbox = Inbox()
    tracemalloc.start()
    for at in range(WINDOW_BYTES):
        inbox.add_output(at & 1, b"x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * WINDOW_BYTES
    taken = 0
    while (chunk := inbox.take()) is not None:
        assert isinstance(chunk, Chunk)
        taken += len(chunk.data)
    assert taken == WINDOW_BYTES


@pytest.mark.parametrize("start", [wire.ExecStart(background=True), wire.ExecStart(pty=wire.Pty(cols=80, rows=24))])
def test_a_command_that_is_not_followed_says_started_and_end(start: wire.ExecStart) -> None:
    """Its start is all that there is to say; output is out of place."""
    grammar = grammar_of(wire.Request(exec_start=start))
    silent, talkative = Stream(1, "exec_start", grammar), Stream(1, "exec_start", grammar)
    for call in (silent, talkative):
        assert say(call, exec_started=wire.ExecStarted(pid=2)) is None

    assert end(silent) is None
    assert say(talkative, exec_output=output(b"x", 0)) is not None


def test_a_freeze_answers_once_or_not_at_all() -> None:
    """Agents that have nothing to withhold say END only; a second answer is out of place."""
    assert end(stream("freeze")) is None
    call = stream("freeze")
    assert say(call, freeze=wire.FreezeReply()) is None
    assert say(call, freeze=wire.FreezeReply()) is not None


def test_commands_listed_are_bounded() -> None:
    """No more entries than a guest keeps, and no endless row of empty replies."""
    call, endless = stream("exec_list"), stream("exec_list")
    entries = [wire.ExecEntry(exec_id=f"cmd_{n}") for n in range(MAX_COMMANDS)]
    assert say(call, exec_entries=wire.ExecEntries(entries=entries)) is None
    assert say(call, exec_entries=wire.ExecEntries(entries=entries[:1])) is not None
    assert say(endless, exec_entries=wire.ExecEntries()) is None
    assert say(endless, exec_entries=wire.ExecEntries()) is not None
