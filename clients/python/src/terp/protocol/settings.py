"""Which server, and as whom: from arguments, else from the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from terp.errors import InvalidRequest, Unauthenticated

DEFAULT_BASE_URL = "http://127.0.0.1:7070"


@dataclass(frozen=True)
class Settings:
    """`base_url` has no trailing slash; a path prefix in it is kept."""

    base_url: str
    api_key: str = field(repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether the server is this very machine, reached without TLS: then proxies and CAs do not matter."""
        url = urlsplit(self.base_url)
        host = url.hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        return loopback and url.scheme == "http"


def resolve_settings(api_key: str | None, base_url: str | None, environ: Mapping[str, str]) -> Settings:
    """
    Raises:
        Unauthenticated: There is no key.
        InvalidRequest: Key or URL have not the form of one.
    """
    key = api_key or environ.get("TERP_API_KEY", "")
    if not key:
        raise Unauthenticated("No API key: set TERP_API_KEY, or pass api_key. `terpd key create` makes one")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidRequest("The API key holds a space, a line end or another character that no key has")
    url = (base_url or environ.get("TERP_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an IPv6 address without its end
        valid = False
    if not valid or parts.query or parts.fragment:
        raise InvalidRequest(f"The base URL must look like {DEFAULT_BASE_URL}, not: {url}")
    return Settings(base_url=url, api_key=key)
