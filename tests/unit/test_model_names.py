"""Host names in one form, and nothing that somebody could read as an address."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terpd.model.names import NameInvalid, asked, covered, normalise, parse_entry


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("localhost", "localhost"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_names_have_one_form(text: str, name: str) -> None:
    assert normalise(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".example.com",
        "example.com..",
        "*.example.com",
        "https://example.com",
        "example.com:443",
        "example.com/x",
        "user@example.com",
        "a b.example",
        "-a.example",
        "a-.example",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "example.com\n",
        "exam\0ple.com",
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0x7f000001",
        "a.0x",
        "::1",
        "[::1]",
        "\uff11\uff12\uff17.0.0.1",
        "straße.example",
        "\u200dexample.com",
        "\ud800.example",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        normalise(text)


def test_guests_send_ascii_only() -> None:
    assert asked(b"EXAMPLE.com") == "example.com"
    with pytest.raises(NameInvalid):
        asked("bücher.example".encode())


@given(st.text(max_size=300))
def test_the_one_form_is_ascii_stable_and_no_address(text: str) -> None:
    try:
        name = normalise(text)
    except NameInvalid:
        return
    assert name.isascii()
    assert name == name.lower() == normalise(name)
    assert 0 < len(name) <= 253
    with pytest.raises(ValueError, match="does not appear"):
        ipaddress.ip_address(name)


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("example.com", True),
        ("a.b.example.com", True),
        ("xexample.com", False),
        ("example.com.evil.test", False),
        ("com", False),
        ("examplexcom", False),
    ],
)
def test_a_listed_name_stands_for_itself_and_all_below(name: str, holds: bool) -> None:  # noqa: FBT001
    assert covered(name, {"example.com"}) is holds


def test_an_entry_may_allow_plain_http_too() -> None:
    assert parse_entry("http://Deb.example") == ("deb.example", True)
    assert parse_entry("deb.example") == ("deb.example", False)
    with pytest.raises(NameInvalid):
        parse_entry("http://http://deb.example")
