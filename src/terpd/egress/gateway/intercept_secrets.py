"""
Putting credentials' values where their placeholders stand, and taking them out of what comes back.

Pure: bytes in, bytes out. Nothing here says a value in an error or a representation.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence

from terpd.model.network import Credential

MAX_PLACES = 8  # of placeholders in one request: values are longer, and a guest must not blow up what we hold
_MIN_ECHO_BYTES = 8  # a shorter value is found everywhere by chance
_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


class TooManyPlaces(Exception):
    """More than `MAX_PLACES` placeholders in one request."""


class Secrets:
    """
    The credentials of one host.

    Raises:
        ValueError: A placeholder is empty, or a value cannot stand in a header. Says the credential's name only.
    """

    def __init__(self, credentials: Iterable[Credential], host: str) -> None:
        self._by_header: dict[bytes, dict[bytes, tuple[str, bytes]]] = {}
        self._echoes: dict[bytes, bytes] = {}
        for credential in credentials:
            if host not in credential.hosts:
                continue
            placeholder, value = credential.placeholder.encode(), credential.value.encode()
            if not placeholder or not _VALUE.fullmatch(value):
                raise ValueError(f"the credential {credential.name} has a placeholder or value that no header can hold")
            self._by_header.setdefault(credential.header.lower().encode(), {})[placeholder] = credential.name, value
            self._echoes[value] = placeholder

    def request(self, fields: Sequence[tuple[bytes, bytes]]) -> Filled:
        """
        Put values in: in the header named by the credential, and in no other.

        In `Authorization: Basic …` the placeholder is also found within the base64, as a user's password.

        Raises:
            TooManyPlaces
        """
        filled = Filled(dict(self._echoes))
        for name, value in fields:
            known = self._by_header.get(name.lower())
            filled.fields.append((name, filled.fill(value, known) if known else value))
        return filled


class Filled:
    """
    Attributes:
        fields: Of the request as the server gets it.
        used: Names of credentials that were put in.
    """

    def __init__(self, echoes: dict[bytes, bytes]) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.used: list[str] = []
        self._echoes = echoes

    def fill(self, value: bytes, known: Mapping[bytes, tuple[str, bytes]]) -> bytes:
        filled = self._replace(value, known)
        scheme, _, token = value.partition(b" ")
        if filled != value or scheme.lower() != b"basic":
            return filled
        try:
            pair = base64.b64decode(token.strip(), validate=True)
        except binascii.Error:
            return value
        if (replaced := self._replace(pair, known)) == pair:
            return value
        encoded = base64.b64encode(replaced)
        self._echoes[encoded] = token
        return scheme + b" " + encoded

    def echo(self, *, least: int) -> Echo:
        """What takes these values out of the answer; *least* as of `Echo`."""
        return Echo(self._echoes, least=least)

    def _replace(self, text: bytes, known: Mapping[bytes, tuple[str, bytes]]) -> bytes:
        def put(found: re.Match[bytes]) -> bytes:
            if len(self.used) == MAX_PLACES:
                raise TooManyPlaces
            name, value = known[found[0]]
            self.used.append(name)
            return value

        # In one pass, the longest first: what was put in is not looked at again.
        return re.sub(b"|".join(map(re.escape, _longest_first(known))), put, text)


class Echo:
    """
    Takes values out of one answer: as text, where they stand as they are, not where they are compressed or encoded.

    Args:
        echoes: By value, what the guest is shown in its place.
        least: In a body, so many bytes of a value at the end of a piece are held back until more follows. 1 finds all,
            but may hold back the end of a message that somebody waits for; a larger number makes that improbable.
    """

    # Without regular expressions: `re` would keep the values in its cache after they are forgotten everywhere else.

    def __init__(self, echoes: Mapping[bytes, bytes], *, least: int) -> None:
        values = [value for value in _longest_first(echoes) if len(value) >= _MIN_ECHO_BYTES]
        self._echoes = [(value, echoes[value]) for value in values]
        self._longest = max(map(len, values), default=0)
        self._least = least
        self._held = b""

    def header(self, text: bytes) -> bytes:
        """Put the placeholder back."""
        for value, placeholder in self._echoes:
            text = text.replace(value, placeholder)
        return text

    def body(self, data: bytes) -> bytes:
        """Blot out; the length stays, so that Content-Length remains true. What is not returned comes later."""
        data = self._held + data
        for value, _ in self._echoes:
            data = data.replace(value, b"*" * len(value))
        cut = self._cut(data)
        self._held = data[cut:]
        return data[:cut]

    def rest(self) -> bytes:
        """What was held back, at the body's end."""
        held, self._held = self._held, b""
        return held

    def _cut(self, data: bytes) -> int:
        """Return where a value begins of which the rest may follow, or the end."""
        cut = len(data)
        start = max(0, len(data) - self._longest + 1)
        for value, _ in self._echoes:
            at = data.find(value[: self._least], start)
            while 0 <= at < cut:
                if value.startswith(data[at:]):
                    cut = at
                at = data.find(value[: self._least], at + 1)
        return cut


def _longest_first(texts: Iterable[bytes]) -> list[bytes]:
    return sorted(texts, key=len, reverse=True)
