"""What of a visitor's request is for us, and what of it goes on to the guest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.types import Scope

Fields = Sequence[tuple[bytes, bytes]]

COOKIE = b"terp_preview_token"
_PARAMETERS = frozenset({b"ork_preview_token", b"terp_preview_token"})
_TOKEN_FIELDS = frozenset({b"x-orkestr-preview-token", b"x-terp-preview-token"})
_MOST_COOKIES = 4  # others under the same base can set one for this host, too; ours is among the first few

_OF_THE_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_FOR_GUESTS = frozenset(
    {
        b"expect",  # answered here, once the guest takes the body
        b"forwarded",  # said anew
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }
)
# Naming one of these in Connection must not remove it: they say where the message ends and whom it is for.
_KEPT = frozenset({b"host", b"content-length", b"cookie", b"set-cookie"})


@dataclass(frozen=True, slots=True)
class Visit:
    """
    A request without its tokens.

    Attributes:
        target: Path and query as they were sent.
        fields: Headers, names in lower case.
        query_token: What the query had for a token. It ends up in histories and logs, unlike the others.
        tokens: All that may be a token, of the query, of headers and of cookies.
    """

    target: bytes
    fields: Fields
    query_token: str | None
    tokens: Sequence[str]


def visit(scope: Scope, label: str) -> Visit:
    """*label* is the first part of the preview's host."""
    query, in_query = _without_token(scope["query_string"])
    headers: Fields = scope["headers"]
    in_cookies: list[str] = []
    fields: list[tuple[bytes, bytes]] = []
    in_fields: list[str] = []
    for name, value in headers:
        if name in _TOKEN_FIELDS:
            in_fields.append(value.decode("latin-1"))
        elif name == b"cookie":
            rest, found = _without_cookie(value)
            in_cookies += found
            if rest:
                fields.append((name, rest))
        else:
            fields.append((name, value))
    if not _from_its_own_pages(headers, label):
        in_cookies = []
    target = scope["raw_path"] + (b"?" + query if query else b"")
    tokens = [*([] if in_query is None else [in_query]), *in_fields[:2], *in_cookies[:_MOST_COOKIES]]
    return Visit(target, fields, in_query, tokens)


def for_guest(fields: Fields, scope: Scope, *, upgrade: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers of the request that the guest gets; it is the only one on its connection."""
    host = next((value for name, value in fields if name == b"host"), b"")
    passed = [field for field in end_to_end(fields) if field[0] not in _NOT_FOR_GUESTS]
    if any(name == b"transfer-encoding" for name, _ in fields):
        passed.append((b"transfer-encoding", b"chunked"))
    if upgrade:
        passed += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    else:
        passed.append((b"connection", b"close"))
    if scope.get("client"):
        passed.append((b"x-forwarded-for", scope["client"][0].encode()))
    return [*passed, (b"x-forwarded-host", host), (b"x-forwarded-proto", scope["scheme"].encode())]


def end_to_end(fields: Fields) -> list[tuple[bytes, bytes]]:
    """Return *fields* without those that are about one connection, names in lower case."""
    named = {
        part.strip().lower() for name, value in fields if name.lower() == b"connection" for part in value.split(b",")
    }
    dropped = _OF_THE_CONNECTION | (named - _KEPT)
    return [(name.lower(), value) for name, value in fields if name.lower() not in dropped]


def location(target: bytes) -> bytes:
    """Return *target* as a reference that cannot lead to another host, whatever it begins with."""
    safe = quote(target, safe="/?#[]@!$&'()*+,;=:~%").encode()
    # After `//` a browser looks for a host name.
    return b"/." + safe if safe.startswith(b"//") else safe


def _without_token(query: bytes) -> tuple[bytes, str | None]:
    kept, token = [], None
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_to_bytes(name) in _PARAMETERS:
            token = unquote_to_bytes(value).decode("latin-1")
        else:
            kept.append(part)
    return b"&".join(kept), token


def _without_cookie(value: bytes) -> tuple[bytes, list[str]]:
    pairs = [pair.strip(b" \t") for pair in value.split(b";")]
    found = [pair[len(COOKIE) + 1 :].decode("latin-1") for pair in pairs if pair.startswith(COOKIE + b"=")]
    if not found:
        return value, []
    return b"; ".join(pair for pair in pairs if not pair.startswith(COOKIE + b"=")), found


def _from_its_own_pages(headers: Fields, label: str) -> bool:
    """
    Whether a cookie says what the visitor wants, rather than what another page makes their browser do.

    All previews are of one site to browsers, so that SameSite does not keep one from using the cookie of another.
    """
    said = {name: value for name, value in headers if name in {b"origin", b"sec-fetch-site"}}
    if said.get(b"sec-fetch-site") in {b"same-origin", b"none"} or b"origin" not in said:
        return True
    sandbox = label.partition("-")[2]
    try:
        host = urlsplit(said[b"origin"].decode("latin-1")).hostname or ""
    except ValueError:
        return False
    return host.partition(".")[0].partition("-")[2] == sandbox
