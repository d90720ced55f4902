"""Reading the addresses that tenants name."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from terpd.model import names
from terpd.model.errors import InvalidRequest
from terpd.model.webhook import MAX_URL_CHARS

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """
    Attributes:
        host: A name as it is resolved, or an address.
        path: With its query; printable ASCII.
    """

    scheme: str
    host: str | Address
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What a Host header says."""
        host = f"[{self.host}]" if isinstance(self.host, ipaddress.IPv6Address) else str(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Target:
    """
    Raises:
        InvalidRequest: It is no http(s) URL, names a user, or has characters that a request's head may not have.
    """
    # What parsers disagree on (white space, backslashes, control and other characters) is not guessed at.
    if len(url) > MAX_URL_CHARS or not all("!" <= each <= "~" and each != "\\" for each in url):
        raise InvalidRequest(f"url must be {MAX_URL_CHARS} printable ASCII characters at most, without spaces or '\\'")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest("url is not a valid URL") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidRequest("url must begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise InvalidRequest("url must not name a user or a password")
    if port == 0:
        raise InvalidRequest("url must not have the port 0")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, _host(parts.hostname), port or _PORTS[parts.scheme], path)


def _host(text: str) -> str | Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        return names.asked(text.encode())
    except names.NameInvalid as error:
        raise InvalidRequest("url has no valid host name") from error
