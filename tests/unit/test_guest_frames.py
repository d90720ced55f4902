"""Frames of the agent channel: any cut, any leftover, any garbage."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terpd.node.guest import frames
from terpd.node.guest.frames import DRAIN, HEADER, MAGIC, MAX_PAYLOAD_BYTES, Decoder, Frame, FrameType

PREFACE = frames.preface(b"n" * 16)

kinds = st.sampled_from(sorted(frames.FROM_AGENT))
some_frames = st.lists(
    st.builds(Frame, st.integers(0, 2**32 - 1), kinds, st.binary(max_size=300)),
    max_size=8,
)


def feed(decoder: Decoder, data: bytes, cuts: list[int]) -> tuple[list[Frame], frames.Violation | None]:
    """Feed *data* in pieces that end at *cuts*; return all frames and the last word."""
    found: list[Frame] = []
    violation = None
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(edges):
        more, violation = decoder.feed(data[start:end])
        found += more
    return found, violation


@given(sent=some_frames, cuts=st.lists(st.integers(0, 3000), max_size=40))
def test_frames_come_out_whole_however_the_bytes_were_cut(sent: list[Frame], cuts: list[int]) -> None:
    """What was encoded is what is decoded, in order, for every way to cut the bytes."""
    data = PREFACE + b"".join(frames.encode(*frame) for frame in sent)
    assert feed(Decoder(PREFACE), data, cuts) == (sent, None)


@given(leftover=st.binary(max_size=500), sent=some_frames, cuts=st.lists(st.integers(0, 600), max_size=20))
def test_leftovers_before_the_preface_are_skipped(leftover: bytes, sent: list[Frame], cuts: list[int]) -> None:
    """Whatever an earlier session left in front of the preface does not reach this one."""
    torn = leftover + MAGIC + leftover[:16]
    data = torn + PREFACE + b"".join(frames.encode(*frame) for frame in sent)
    assert feed(Decoder(PREFACE), data, cuts) == (sent, None)


@given(garbage=st.binary(max_size=4000), cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_garbage_after_the_preface_ends_or_waits_but_never_raises(garbage: bytes, cuts: list[int]) -> None:
    """Decoding arbitrary bytes gives frames and at most one violation, and holds no more than it was given."""
    found, _ = feed(Decoder(PREFACE), PREFACE + garbage, cuts)
    assert sum(HEADER.size + len(frame.payload) for frame in found) <= len(garbage)


@pytest.mark.parametrize("kind", sorted(set(range(256)) - {int(kind) for kind in frames.FROM_AGENT}))
def test_a_type_that_no_agent_sends_is_a_violation(kind: int) -> None:
    """PAD, OPEN, CANCEL, PART and every unknown type end the session at once, before their payload."""
    found, violation = Decoder(PREFACE).feed(PREFACE + HEADER.pack(10, 1, kind))
    assert found == []
    assert violation is not None


def test_an_oversize_length_is_refused_before_anything_is_kept_for_it() -> None:
    """A length above the bound is a violation as soon as the header is there; what follows is not stored."""
    decoder = Decoder(PREFACE)
    _, violation = decoder.feed(PREFACE + HEADER.pack(MAX_PAYLOAD_BYTES + 1, 1, FrameType.DATA))
    assert violation is not None
    tracemalloc.start()
    for _ in range(64):
        assert decoder.feed(bytes(65_536)) == ([], violation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_search_for_the_preface_is_bounded_in_bytes_and_memory() -> None:
    """A guest that never answers the preface is given up after 4 MiB, of which next to nothing is held."""
    decoder = Decoder(PREFACE)
    tracemalloc.start()
    fed, violation = 0, None
    while violation is None:
        _, violation = decoder.feed(MAGIC * 1024)
        fed += 16 * 1024
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fed <= frames.MAX_LEFTOVER_BYTES + 32 * 1024
    assert peak < 1_000_000


def test_bytes_that_trickle_in_cost_no_more_than_one_frame() -> None:
    """A frame that comes byte by byte is decoded once it is whole."""
    decoder = Decoder(PREFACE)
    data = PREFACE + frames.encode(7, FrameType.DATA, bytes(1000))
    found = [frame for at in range(len(data)) for frame in decoder.feed(data[at : at + 1])[0]]
    assert found == [Frame(7, FrameType.DATA, bytes(1000))]


def agent_side(data: bytes) -> list[tuple[int, int, bytes]] | None:
    """
    Decode the host's bytes as FRAMING.md tells an agent to, from within a session; frames of the session that the
    last preface begins, or None when no preface was understood.
    """
    at, result = 0, None
    while at < len(data):
        header = data[at : at + HEADER.size]
        if len(header) < HEADER.size:
            break
        length, stream, kind = HEADER.unpack(header)
        bad_pad = kind == FrameType.PAD and (length or stream)
        if length > MAX_PAYLOAD_BYTES or kind not in {0, 1, 3, 4, 6, 7} or bad_pad:
            found = data.find(MAGIC, at)
            if found < 0:
                break
            at, result = found + frames.PREFACE_BYTES, []
            continue
        if at + HEADER.size + length > len(data):
            break
        if result is not None and kind != FrameType.PAD:
            result.append((stream, kind, data[at + HEADER.size : at + HEADER.size + length]))
        at += HEADER.size + length
    return result


@given(
    stream=st.integers(1, 2**32 - 1),
    kind=st.sampled_from([FrameType.OPEN, FrameType.DATA, FrameType.PART]),
    payload=st.binary(max_size=200) | st.just(bytes(MAX_PAYLOAD_BYTES)) | st.just(b"\xf4" * MAX_PAYLOAD_BYTES),
    data=st.data(),
)
def test_zeros_and_a_preface_are_understood_after_any_torn_frame(
    stream: int, kind: FrameType, payload: bytes, data: st.DataObject
) -> None:
    """A host that died inside any frame, at any byte, is followed by one whose first frames are read."""
    whole = frames.encode(stream, kind, payload)
    torn = whole[: data.draw(st.integers(0, len(whole)), label="cut")]
    first = frames.encode_request(1, b"request")
    assert agent_side(torn + DRAIN + PREFACE + first) == [(1, FrameType.OPEN, b"request")]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 131_072, 131_073, 1_048_576])
def test_a_long_request_is_cut_into_parts_of_a_frame_each(size: int) -> None:
    """PART frames and one OPEN carry the request in order; none is longer than a frame, and OPEN is last."""
    request = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sent = agent_side(b"\xff" * 9 + PREFACE + frames.encode_request(5, request))
    assert sent is not None
    assert b"".join(payload for _, _, payload in sent) == request
    assert [kind for _, kind, _ in sent] == [FrameType.PART] * (len(sent) - 1) + [FrameType.OPEN]
    assert len(sent) == max(1, -(-size // MAX_PAYLOAD_BYTES))


def test_what_does_not_fit_the_wire_is_refused_on_the_way_out() -> None:
    """The host never sends a frame or request above the bounds, nor a preface of another length."""
    with pytest.raises(ValueError, match="65536"):
        frames.encode(1, FrameType.DATA, bytes(MAX_PAYLOAD_BYTES + 1))
    with pytest.raises(ValueError, match="1048576"):
        frames.encode_request(1, bytes(frames.MAX_REQUEST_BYTES + 1))
    with pytest.raises(ValueError, match="16"):
        frames.preface(b"short")


def test_credit_is_four_bytes() -> None:
    """A CREDIT payload of any other length is none."""
    assert frames.decode_credit(frames.encode_credit(1, 77)[HEADER.size :]) == 77
    assert frames.decode_credit(b"\0\0\0") is None
    assert frames.decode_credit(b"\0\0\0\0\1") is None
