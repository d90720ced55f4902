"""
Host names, as lists state them and as guests ask for them, in one form: ASCII, lower case, no trailing dot.

What some resolver may take for an address (`127.1`, `0x7f000001`, `2130706433`) is no name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from terpd.model.network import MAX_NAME_CHARS

# RFC 1123, and underscores, which real names of services have. Nothing else: not what a lenient resolver lets pass.
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PLAIN_HTTP = "http://"
# IDNA 2003 and 2008 disagree about these, so clients do: which name is meant is only clear in punycode.
_AMBIGUOUS = frozenset("\u00df\u03c2\u200c\u200d")


class NameInvalid(ValueError):
    """No host name. The text is for users: what is wrong with it."""


def normalise(text: str) -> str:
    """
    Return a name in the one form.

    Raises:
        NameInvalid: It is no host name; also for addresses, wildcards and a port.
    """
    name = text.removesuffix(".")
    if not name.isascii():
        name = _punycode(name)
    name = name.lower()
    if not 1 <= len(name) <= MAX_NAME_CHARS or _NAME.fullmatch(name) is None:
        raise NameInvalid("A host name consists of letters, digits, hyphens and dots, without scheme, port or wildcard")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise NameInvalid("A host name is needed, not an address")
    return name


def asked(raw: bytes) -> str:
    """
    Return a name as a guest sent it, in the one form. Only ASCII: clients send punycode.

    Raises:
        NameInvalid
    """
    try:
        return normalise(raw.decode("ascii"))
    except UnicodeDecodeError as error:
        raise NameInvalid("A host name is sent in ASCII") from error


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address literal, with or without the brackets of URLs; None for anything else."""
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def parse_entry(entry: str) -> tuple[str, bool]:
    """
    Return the name of a list's entry, and whether plain HTTP may be spoken with it, too: `http://mirror.example`.

    Raises:
        NameInvalid
    """
    plain = entry.startswith(_PLAIN_HTTP)
    return normalise(entry.removeprefix(_PLAIN_HTTP) if plain else entry), plain


def covered(name: str, allowed: Collection[str]) -> bool:
    """Whether *name* is one of *allowed* or below one of them. All in the one form."""
    while name not in allowed:
        _, dot, name = name.partition(".")
        if not dot:
            return False
    return True


def _punycode(name: str) -> str:
    if _AMBIGUOUS & set(name):
        raise NameInvalid("Write this name in punycode (xn--...): clients do not agree about its letters")
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise NameInvalid("This name cannot be written in ASCII (punycode)") from error
