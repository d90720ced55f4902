"""Offsets of chunks: where in a command's output each begins, however its characters are cut."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import pytest

from terpd.api.sse import ExecFrames
from terpd.model.errors import GuestFault, StateConflict
from terpd.model.guest import ExecEvent, ExecExited, ExecOutput, OutputStream
from terpd.model.ids import new_exec_id

OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR
END = ExecExited(0, None, timed_out=False, duration_ms=1)
CRAB = "🦀".encode()


def output(*pieces: tuple[OutputStream, bytes], at: int = 0) -> Sequence[ExecOutput]:
    """Events with the offsets that a guest gives them."""
    events = []
    for stream, data in pieces:
        events.append(ExecOutput(stream, data, at))
        at += len(data)
    return events


def decoded(raw: bytes) -> dict[str, object]:
    frame: dict[str, object] = json.loads(raw.removeprefix(b"data: "))
    return frame


def chunks(frames: ExecFrames, events: Sequence[ExecEvent]) -> list[tuple[str, int, bytes]]:
    found = [decoded(raw) for event in events for raw in frames.of(event)]
    return [
        (str(frame["stream"]), int(str(frame["offset"])), base64.b64decode(str(frame["data"])))
        for frame in found
        if frame["kind"] == "exec_chunk"
    ]


@pytest.mark.parametrize("at", [0, 1000, 2**40])
def test_chunks_follow_each_other(at: int) -> None:
    """Each begins where the last one ended, also where both streams alternate and characters are cut."""
    text = "aé€🦀".encode()
    pieces = [(OUT, text[n : n + 1]) for n in range(len(text))] + [(ERR, b"e"), (OUT, b"f")]

    seen = chunks(ExecFrames(new_exec_id()), [*output(*pieces, at=at), END])

    assert [data for _, _, data in seen] == [b"a", "é".encode(), "€".encode(), CRAB, b"e", b"f"]
    for _, offset, data in seen:
        assert offset == at
        at += len(data)


def test_gap_shows() -> None:
    """Output that the guest no longer had is a gap between a chunk's end and the next one's offset."""
    events = [*output((OUT, b"abc")), *output((OUT, b"xyz"), at=100)]
    assert chunks(ExecFrames(new_exec_id()), events) == [("stdout", 0, b"abc"), ("stdout", 100, b"xyz")]


def test_interrupted_character_ends_where_it_ends() -> None:
    """The other stream's output within a character does not tear it; going on behind it repeats and loses nothing."""
    events = output((OUT, b"ab" + CRAB[:2]), (ERR, b"err"), (OUT, CRAB[2:] + b"c"))

    seen = chunks(ExecFrames(new_exec_id()), events)

    assert [(stream, data) for stream, _, data in seen] == [
        ("stdout", b"ab"),
        ("stderr", b"err"),
        ("stdout", CRAB + b"c"),
    ]
    ends = [offset + len(data) for _, offset, data in seen]
    assert ends == [2, 7, 10]


@pytest.mark.parametrize("cut", range(1, 4))
def test_break_does_not_lose_what_was_held_back(cut: int) -> None:
    """Attaching at the error's offset sends the whole of the character whose beginning had come already."""
    frames = ExecFrames(new_exec_id())
    assert chunks(frames, output((OUT, b"ab" + CRAB[:cut]))) == [("stdout", 0, b"ab")]

    last = decoded(frames.broken(StateConflict("paused", fields={"command_id": "cmd_1", "offset": 2 + cut})))

    assert last == {"kind": "error", "code": "state_conflict", "message": "paused", "command_id": "cmd_1", "offset": 2}
    again = ExecFrames(new_exec_id())
    assert chunks(again, output((OUT, CRAB + b"c"), at=2)) == [("stdout", 2, CRAB + b"c")]


def test_break_without_an_offset() -> None:
    """An error that says nothing of the output is told as it is."""
    frames = ExecFrames(new_exec_id())
    assert decoded(frames.broken(GuestFault("lost"))) == {"kind": "error", "code": "guest_fault", "message": "lost"}


def test_what_never_becomes_a_character_comes_at_the_end() -> None:
    """Nothing of an ended command's output is kept back."""
    seen = chunks(ExecFrames(new_exec_id()), [*output((OUT, b"a\xe2\x82"), (ERR, b"\xf0")), END])
    assert seen == [("stdout", 0, b"a"), ("stdout", 1, b"\xe2\x82"), ("stderr", 3, b"\xf0")]
