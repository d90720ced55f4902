"""Credentials: what may be one, and what the sandbox gets of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terpd.control.checks import check_allow_domains
from terpd.control.credentials import CredentialRequest, Credentials, check_credentials, placeholders
from terpd.model.errors import InvalidRequest, TerpError, TooLarge
from terpd.model.ids import new_sandbox_id
from terpd.model.network import MAX_ALLOW_DOMAINS, Credential

ONE = CredentialRequest("open-ai", ["API.Example.com."], "sk-hunter2")


def test_what_is_not_given_has_a_default() -> None:
    """Names of hosts and headers come in one form."""
    assert check_credentials([ONE, replace(ONE, name="other", header="X-Api-Key", placeholder="sk-not-it")]) == [
        Credential("open-ai", ("api.example.com",), "authorization", "terp-secret-open-ai", "sk-hunter2"),
        Credential("other", ("api.example.com",), "x-api-key", "sk-not-it", "sk-hunter2"),
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"hosts": []}, "hosts"),
        ({"hosts": [f"h{n}.example" for n in range(17)]}, "hosts"),
        ({"hosts": ["*.example.com"]}, "host"),
        ({"hosts": ["192.0.2.1"]}, "host"),
        ({"hosts": ["https://example.com"]}, "host"),
        ({"header": ""}, "header"),
        ({"header": "x y"}, "header"),
        ({"header": "x:\r\ny"}, "header"),
        ({"header": "Host"}, "header"),
        ({"header": "Content-Length"}, "header"),
        ({"header": "transfer-encoding"}, "header"),
        ({"placeholder": "short"}, "placeholder"),
        ({"placeholder": "with a space"}, "placeholder"),
        ({"placeholder": "x" * 129}, "placeholder"),
        ({"value": ""}, "value"),
        ({"value": "sk-\r\nx: y"}, "value"),
        ({"value": " sk-hunter2"}, "value"),
        ({"value": "sk-hunter2\n"}, "value"),
        ({"value": "sk-hünter2"}, "value"),
        ({"value": "x" * 8193}, "value"),
    ],
)
def test_what_is_no_credential(change: dict[str, object], says: str) -> None:
    """The text says what is wrong, and never the value."""
    request = replace(ONE, **change)  # type: ignore[arg-type]
    with pytest.raises((InvalidRequest, TooLarge), match=says) as refused:
        check_credentials([request])
    assert not request.value.strip() or request.value.strip() not in str(refused.value)


def test_each_is_distinct() -> None:
    """By name and by placeholder; and there may be so many."""
    with pytest.raises(InvalidRequest, match="name of its own"):
        check_credentials([ONE, replace(ONE, placeholder="another-one")])
    with pytest.raises(InvalidRequest, match="placeholder of its own"):
        check_credentials([ONE, replace(ONE, name="OPEN-AI")])
    with pytest.raises(TooLarge):
        check_credentials([replace(ONE, name=f"n{n}") for n in range(17)])


def test_values_are_shown_nowhere() -> None:
    """Neither in a request's representation nor in a credential's."""
    assert "hunter2" not in repr(ONE) + repr(check_credentials([ONE]))


def test_variables() -> None:
    """By default the name in capitals; another one, or none."""
    requests = [ONE, replace(ONE, name="b", env="TOKEN"), replace(ONE, name="c", env="")]
    assert placeholders(requests, check_credentials(requests)) == {
        "OPEN_AI": "terp-secret-open-ai",
        "TOKEN": "terp-secret-b",
    }


@pytest.mark.parametrize("changes", [{"name": "1st"}, {"env": "A=B"}, {"env": "A B"}, {"env": "É"}])
def test_what_is_no_variable(changes: dict[str, str]) -> None:
    """Its default, too, must be one."""
    request = replace(ONE, **changes)
    with pytest.raises(InvalidRequest, match="env"):
        placeholders([request], check_credentials([request]))


def test_variable_that_two_would_have() -> None:
    """Neither of them wins."""
    requests = [ONE, replace(ONE, name="b", env="OPEN_AI")]
    with pytest.raises(InvalidRequest, match="same env"):
        placeholders(requests, check_credentials(requests))


def test_values_are_held_for_a_life() -> None:
    """What is not held any more is known to have been there, without its value."""
    held = Credentials()
    first, second = new_sandbox_id(), new_sandbox_id()
    whole = check_credentials([ONE])
    recorded = [replace(whole[0], value="")]
    held.hold(first, whole)
    held.hold(second, whole)
    assert held.fill(first, recorded) == whole
    held.drop(first)
    held.drop(first)
    assert held.fill(first, recorded) == recorded
    held.keep_only([first])
    assert held.fill(second, recorded) == recorded


# ---- domains ----


def test_domains_in_one_form() -> None:
    """Lower case, punycode, each once and in their order; none at all is not an empty list."""
    given_names = ["Example.COM", "bücher.example", "example.com.", "http://Mirror.example"]
    assert check_allow_domains(given_names) == ("example.com", "xn--bcher-kva.example", "http://mirror.example")
    assert check_allow_domains([]) == ()
    assert check_allow_domains(None) is None


@pytest.mark.parametrize(
    "name", ["", ".", "*.example.com", "192.0.2.1", "[::1]", "2130706433", "https://a.example", "a b", "a/b", "a:443"]
)
def test_what_is_no_domain(name: str) -> None:
    """The text names the field and the entry."""
    with pytest.raises(InvalidRequest, match="allow_domains"):
        check_allow_domains(["example.com", name])


def test_number_of_domains() -> None:
    """As many as one may have, and one more."""
    names = [f"h{n}.example" for n in range(MAX_ALLOW_DOMAINS)]
    assert check_allow_domains(names) == tuple(names)
    with pytest.raises(TooLarge):
        check_allow_domains([*names, "one.example"])


@given(st.text(max_size=300))
def test_any_text_is_refused_or_is_in_its_form_for_good(text: str) -> None:
    """Whatever comes: no other error, and checking again changes nothing."""
    try:
        checked = check_allow_domains([text])
    except TerpError:
        return
    assert check_allow_domains(checked) == checked
