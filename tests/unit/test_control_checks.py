"""Paths and UTF-8 pieces: the small pure rules."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terpd.api.utf8 import Utf8Cutter, decode_kept
from terpd.control.checks import check_path, check_writable
from terpd.model.errors import InvalidRequest, NotPermitted


@pytest.mark.parametrize(
    ("given_path", "checked"),
    [("/a//b/./c/", "/a/b/c"), ("//etc", "/etc"), ("/", "/"), ("/a/../../b", "/b"), ("/workspace/..", "/")],
)
def test_paths_are_normalised(given_path: str, checked: str) -> None:
    """Dots and doubled slashes go; nothing leads above the root."""
    assert check_path(given_path) == checked


@pytest.mark.parametrize("path", ["", "a", "./a", "~", "/a\0", "/" + "x" * 4096])
def test_impossible_paths(path: str) -> None:
    """They are refused before the guest sees them."""
    with pytest.raises(InvalidRequest):
        check_path(path)


@pytest.mark.parametrize("path", ["/workspace", "/tmp/", "/tmp/../etc/x", "/workspacex/y", "/", "/etc/x"])
def test_only_write_roots_are_writable(path: str) -> None:
    """The roots themselves are not, and nothing that only looks like being below them."""
    with pytest.raises(NotPermitted):
        check_writable(path)


@given(st.binary(max_size=64), st.lists(st.integers(0, 64)))
def test_any_cut_keeps_every_byte_and_character(data: bytes, cuts: list[int]) -> None:
    """Whatever arrives in whatever pieces: all bytes come out, and decoding piecewise equals decoding at once."""
    cutter = Utf8Cutter()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [cutter.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    pieces.append(cutter.flush())
    assert b"".join(pieces) == data
    valid = data.decode("utf-8", "ignore").encode()
    cutter = Utf8Cutter()
    parts = [cutter.feed(valid[i : i + 1]) for i in range(len(valid))]
    assert all(part.decode() is not None for part in parts)
    assert cutter.flush() == b""


def test_cut_output_loses_its_broken_tail() -> None:
    """Only output that was cut by us may lose the beginning of a character."""
    assert decode_kept("a€".encode()[:-1], cut=True) == "a"
    assert decode_kept("a€".encode()[:-1], cut=False) == "a\ufffd"
