"""The event parser, held against what the HTML standard says of event streams."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terp import BadReply
from terp.protocol.events import MAX_EVENT_BYTES, EventParser

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
TEXTS = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20).map(str.encode)
NOISE = st.one_of(
    TEXTS.map(lambda text: b":" + text),
    TEXTS.map(lambda text: b"event: " + text),
    st.just(b"id"),
    st.just(b"retry: 5"),
)


def parse(*chunks: bytes, max_bytes: int = MAX_EVENT_BYTES) -> list[bytes]:
    parser = EventParser(max_bytes)
    return [payload for chunk in chunks for payload in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data\n\n", [b""]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b": ka\n\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 1\ndata: a\n\n", [b"a"]),
        (b"database: a\n\n", []),
        (b"data: a\n", []),
        (b"data: a\xe2\x80\xa8b\xc2\x85c\n\n", [b"a\xe2\x80\xa8b\xc2\x85c"]),
    ],
)
def test_streams(stream: bytes, payloads: list[bytes]) -> None:
    """What an event is; an unfinished one is none."""
    assert parse(stream) == payloads


@given(
    events=st.lists(st.tuples(st.lists(NOISE, max_size=2), st.lists(TEXTS, min_size=1, max_size=3)), max_size=5),
    end=LINE_ENDS,
    cuts=st.lists(st.integers(0, 400), max_size=10),
)
def test_cuts_and_line_ends_change_nothing(
    events: list[tuple[list[bytes], list[bytes]]], end: bytes, cuts: list[int]
) -> None:
    """Every stream written as the standard says is read back, wherever the network cuts it."""
    stream = b"".join(
        b"".join(line + end for line in noise) + b"".join(b"data: " + line + end for line in lines) + end
        for noise, lines in events
    )
    points = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:stop] for start, stop in itertools.pairwise(points)]

    assert parse(*chunks) == [b"\n".join(lines) for _, lines in events]


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_bytes_are_read_alike_whole_and_in_pieces(chunks: list[bytes]) -> None:
    """Garbage is no reason to fail, nor to depend on how it was cut."""
    assert parse(*chunks) == parse(b"".join(chunks))


def test_event_without_end_is_refused() -> None:
    """A peer that never ends a line, or an event, does not fill this process' memory."""
    for line in (b"x", b"data: x\n"):
        with pytest.raises(BadReply):
            parse(*[line] * 200, max_bytes=100)


def test_signs_of_life_weigh_nothing() -> None:
    """A command that is silent for a day is no event without end, not even in the midst of one."""
    parser = EventParser(100)

    payloads = list(parser.feed(b"data: a\n")) + [p for _ in range(200) for p in parser.feed(b": ka\n")]

    assert payloads == []
    assert list(parser.feed(b"\n")) == [b"a"]
