"""What becomes of values on their way out and back, whatever the pieces are."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terpd.egress.gateway.intercept_secrets import MAX_PLACES, Secrets, TooManyPlaces
from terpd.model.network import Credential

HOST = "api.example.test"
VALUE, LONGER = b"abcabcabd", b"abcabcabd-and-more"
SECRETS = Secrets(
    [
        Credential("api", (HOST,), "Authorization", "holder", VALUE.decode()),
        Credential("longer", (HOST,), "authorization", "holder-2", LONGER.decode()),
        Credential("nested", (HOST,), "x-key", "nested", "holder-in-value"),
        Credential("short", (HOST,), "x-key", "little", "ok"),
    ],
    HOST,
)
TEXT = st.lists(st.sampled_from([VALUE, LONGER, b"abc", b"ab", b"a", b"-and-more", b"x", b"\n"]), max_size=30)


def in_pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return [body[start:end] for start, end in itertools.pairwise(ends)]


@given(TEXT.map(b"".join), st.lists(st.integers(0, 400), max_size=12))
def test_a_value_is_found_however_the_body_is_cut(body: bytes, cuts: list[int]) -> None:
    echo = SECRETS.request([]).echo(least=1)

    shown = b"".join(map(echo.body, in_pieces(body, cuts))) + echo.rest()

    assert VALUE not in shown
    assert len(shown) == len(body)
    rest = re.sub(rb"\*+", lambda stars: body[stars.start() : stars.end()], shown)
    assert rest == body


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_nothing_else_is_changed(pieces: list[bytes]) -> None:
    echo = SECRETS.request([]).echo(least=1)

    shown = b"".join(map(echo.body, pieces)) + echo.rest()

    assert shown == b"".join(pieces).replace(VALUE, b"*" * len(VALUE))


def test_the_end_of_a_message_is_not_held_back_for_a_few_bytes_that_begin_a_value() -> None:
    echo = SECRETS.request([]).echo(least=8)

    assert echo.body(b"an answer: abcabc") == b"an answer: abcabc"
    assert echo.body(b"an answer: abcabcab") == b"an answer: "
    assert echo.body(b"d") == b"********" + b"*"


def test_the_longest_placeholder_counts_and_what_was_put_in_is_not_looked_at_again() -> None:
    filled = SECRETS.request([(b"AUTHORIZATION", b"holder holder-2"), (b"X-Key", b"nested"), (b"Cookie", b"holder")])

    assert filled.fields == [
        (b"AUTHORIZATION", VALUE + b" " + LONGER),
        (b"X-Key", b"holder-in-value"),
        (b"Cookie", b"holder"),
    ]
    assert filled.used == ["api", "longer", "nested"]


def test_a_short_value_is_put_in_but_not_looked_for() -> None:
    filled = SECRETS.request([(b"X-Key", b"little")])

    assert filled.fields == [(b"X-Key", b"ok")]
    assert filled.echo(least=1).header(b"200 ok") == b"200 ok"


def test_places_are_limited_over_all_fields() -> None:
    fields = [(b"Authorization", b"holder")] * MAX_PLACES

    assert len(SECRETS.request(fields).used) == MAX_PLACES
    with pytest.raises(TooManyPlaces):
        SECRETS.request([*fields, (b"X-Key", b"nested")])


def test_credentials_of_other_hosts_are_not_known() -> None:
    secrets = Secrets([Credential("api", ("other.example.test",), "authorization", "holder", "a value")], HOST)

    assert secrets.request([(b"Authorization", b"holder")]).fields == [(b"Authorization", b"holder")]


def test_no_representation_says_a_value() -> None:
    filled = SECRETS.request([(b"Authorization", b"holder")])

    assert VALUE.decode() not in f"{SECRETS!r} {filled!r} {filled.echo(least=1)!r}"
