"""Keys wrap keys: what was sealed opens with its key and for its subject only, and nothing shows a secret."""

from __future__ import annotations

import base64
import os

import pytest

from terpd.model.errors import StateMismatch
from terpd.sealing.box import SealBroken, seal, unseal
from terpd.sealing.keyring import BadKey, KeyRing, new_server_key, server_key_id, wrapped_with

KEY = bytes(range(32))
SUBJECT = "sbx_01J00000000000000000000000"


def test_a_message_opens_as_it_was() -> None:
    sealed = seal(KEY, b"message", context="what it is")

    assert unseal(KEY, sealed, context="what it is") == b"message"
    assert b"message" not in sealed


def test_no_two_seals_are_equal() -> None:
    """Each has a nonce of its own: two under one would give both messages away."""
    assert len({seal(KEY, b"message", context="") for _ in range(100)}) == 100


@pytest.mark.parametrize("place", [0, 1, 12, 13, 19, -1])
def test_a_changed_byte_breaks_the_seal(place: int) -> None:
    """Version, nonce, text and tag alike."""
    sealed = bytearray(seal(KEY, b"message", context="it"))
    sealed[place] ^= 1

    with pytest.raises(SealBroken):
        unseal(KEY, bytes(sealed), context="it")


@pytest.mark.parametrize("length", [0, 1, 5, 12, 13, 28, 35])
def test_a_torn_message_breaks_the_seal(length: int) -> None:
    sealed = seal(KEY, b"message", context="it")

    with pytest.raises(SealBroken):
        unseal(KEY, sealed[:length], context="it")


def test_key_and_context_must_be_the_same() -> None:
    """One sealed thing cannot be put in the place of another."""
    sealed = seal(KEY, b"message", context="one")

    with pytest.raises(SealBroken):
        unseal(KEY, sealed, context="another")
    with pytest.raises(SealBroken):
        unseal(bytes(32), sealed, context="one")


def test_a_data_key_is_unwrapped_for_its_subject_only() -> None:
    ring = KeyRing([KEY])
    made = ring.new_data_key(SUBJECT)

    assert ring.unwrap(made.sealed, SUBJECT) == made.secret
    assert len(made.secret) == 32
    assert wrapped_with(made.sealed) == ring.current_id == server_key_id(KEY)
    with pytest.raises(StateMismatch, match="does not open"):
        ring.unwrap(made.sealed, SUBJECT.replace("J", "K"))


def test_a_new_first_key_rotates() -> None:
    """What the old one wrapped still opens; what is wrapped from now on has the new one; without the old it is over."""
    old, new = KeyRing([KEY]), os.urandom(32)
    before = old.new_data_key(SUBJECT)
    both = KeyRing([new, KEY])

    after = both.new_data_key(SUBJECT)

    assert both.unwrap(before.sealed, SUBJECT) == before.secret
    assert both.unwrap(after.sealed, SUBJECT) == after.secret
    assert wrapped_with(after.sealed) == server_key_id(new)
    assert both.ids == {server_key_id(new), server_key_id(KEY)}
    with pytest.raises(StateMismatch, match=server_key_id(KEY)):
        KeyRing([new]).unwrap(before.sealed, SUBJECT)


@pytest.mark.parametrize("damaged", [b"", b":", b"no colon", b"\xff\xfe:x"])
def test_a_damaged_record_is_no_crash(damaged: bytes) -> None:
    with pytest.raises(StateMismatch):
        KeyRing([KEY]).unwrap(damaged, SUBJECT)
    with pytest.raises(StateMismatch):
        KeyRing([KEY]).unwrap(server_key_id(KEY).encode() + b":" + damaged, SUBJECT)


def test_the_file_of_keys() -> None:
    """Comments and empty lines do not count, nor do line ends of other systems; the first key wraps."""
    first, second = new_server_key(), new_server_key()

    ring = KeyRing.parse(f"# of 2026\r\n\r\n{first}\r\n  {second}  \n# end")

    assert ring.current_id == server_key_id(base64.b64decode(first))
    assert len(ring.ids) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no key"),
        ("# only a comment\n", "no key"),
        ("not base64!\n", "line 1 is not base64"),
        ("schlüssel\n", "line 1 is not base64"),
        (f"{base64.b64encode(bytes(16)).decode()}\n", "line 1 holds 16 bytes"),
        (f"{base64.b64encode(KEY).decode()}\n\nc2hvcnQ=\n", "line 3 holds 5 bytes"),
    ],
)
def test_a_wrong_file_is_refused_without_showing_it(text: str, why: str) -> None:
    with pytest.raises(BadKey) as caught:
        KeyRing.parse(text)

    assert why in str(caught.value)
    assert not any(line and line in str(caught.value) for line in text.splitlines())


def test_nothing_shows_a_secret() -> None:
    """Logs and tracebacks print what things look like."""
    ring = KeyRing([KEY])
    made = ring.new_data_key(SUBJECT)

    shown = f"{made!r} {made} {ring!r}"
    assert repr(made.secret) not in shown
    assert repr(KEY) not in shown
    assert made.secret.hex() not in made.id


def test_derived_secrets() -> None:
    """One for each use and each server key, the same for good; none of them is the key, or an id of it."""
    old, new = os.urandom(32), os.urandom(32)
    before, after = KeyRing([old]), KeyRing([new, old])
    assert before.derive("previews") == KeyRing([old]).derive("previews")
    assert len({before.derive("previews"), before.derive("other"), after.derive("previews"), old, new}) == 5
    assert after.derive_all("previews") == [after.derive("previews"), before.derive("previews")]
