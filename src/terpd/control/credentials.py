"""
The values of sandboxes' credentials: in this process's memory, and nowhere else.

What is on record of them are names, hosts and placeholders, so that after a restart the gateway knows which requests
would have needed one, and refuses those.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from terpd.control.checks import check_domain
from terpd.model.errors import InvalidRequest, TooLarge
from terpd.model.ids import SandboxId
from terpd.model.network import MAX_CREDENTIAL_BYTES, MAX_CREDENTIAL_HOSTS, MAX_CREDENTIALS, Credential

MAX_PLACEHOLDER_CHARS = 128

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}")  # a token of RFC 9110
_PLACEHOLDER = re.compile(rf"[\x21-\x7e]{{8,{MAX_PLACEHOLDER_CHARS}}}")  # short ones could occur by chance
_VALUE = re.compile(r"[\x20-\x7e]+")  # what is legal in a header everywhere
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# They say where a request ends and to whom it goes: whoever could set them could reach another host or hide a request.
_STRUCTURAL = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "upgrade", "te", "expect", "host"),
        *("content-length", "trailer", "transfer-encoding"),
    }
)


@dataclass(frozen=True, slots=True)
class CredentialRequest:
    """
    What a caller gives, before it is checked.

    Attributes:
        placeholder: None: `terp-secret-` and the name.
        env: The variable that holds the placeholder in the sandbox. None: the name in capitals, with `_` for `-`;
            empty: no variable.
    """

    name: str
    hosts: Sequence[str]
    value: str = field(repr=False)
    header: str = "authorization"
    placeholder: str | None = None
    env: str | None = None


class Credentials:
    """Of the sandboxes that live."""

    def __init__(self) -> None:
        self._values: dict[SandboxId, Mapping[str, str]] = {}

    def hold(self, sandbox_id: SandboxId, credentials: Sequence[Credential]) -> None:
        if credentials:
            self._values[sandbox_id] = {credential.name: credential.value for credential in credentials}

    def fill(self, sandbox_id: SandboxId, recorded: Sequence[Credential]) -> Sequence[Credential]:
        """Return what is recorded of a sandbox with the values that are here; those that are lost stay empty."""
        values = self._values.get(sandbox_id, {})
        return [replace(credential, value=values.get(credential.name, "")) for credential in recorded]

    def drop(self, sandbox_id: SandboxId) -> None:
        self._values.pop(sandbox_id, None)

    def keep_only(self, live: Collection[SandboxId]) -> None:
        for sandbox_id in self._values.keys() - set(live):
            del self._values[sandbox_id]


def check_credentials(requests: Sequence[CredentialRequest]) -> Sequence[Credential]:
    """
    Raises:
        InvalidRequest, TooLarge: One of them is not a possible one. The text never holds a value.
    """
    if len(requests) > MAX_CREDENTIALS:
        raise TooLarge(
            f"secrets may have {MAX_CREDENTIALS} entries at most; it has: {len(requests)}",
            fields={"limit": MAX_CREDENTIALS},
        )
    credentials = [_checked(request) for request in requests]
    for what in ("name", "placeholder"):
        if len({getattr(credential, what) for credential in credentials}) < len(credentials):
            raise InvalidRequest(f"secrets: each must have a {what} of its own")
    return credentials


def placeholders(requests: Sequence[CredentialRequest], credentials: Sequence[Credential]) -> Mapping[str, str]:
    """
    Return the variables that a sandbox gets for its credentials.

    Raises:
        InvalidRequest: A variable has no possible name, or two have the same.
    """
    variables: dict[str, str] = {}
    for request, credential in zip(requests, credentials, strict=True):
        name = credential.name.upper().replace("-", "_") if request.env is None else request.env
        if not name:
            continue
        if not _VARIABLE.fullmatch(name):
            raise InvalidRequest(
                f"secrets: {credential.name} needs another env: letters, digits and '_', no digit first"
            )
        if name in variables:
            raise InvalidRequest(f"secrets: two have the same env; give one of them another: {name}")
        variables[name] = credential.placeholder
    return variables


def _checked(request: CredentialRequest) -> Credential:
    name = request.name
    if not _NAME.fullmatch(name):
        raise InvalidRequest("secrets: a name must be letters, digits, '_' and '-', 64 at most")
    if not 1 <= len(request.hosts) <= MAX_CREDENTIAL_HOSTS:
        raise InvalidRequest(
            f"secrets: {name} must have 1 to {MAX_CREDENTIAL_HOSTS} hosts; it has: {len(request.hosts)}"
        )
    hosts = tuple(dict.fromkeys(check_domain(host, field=f"secrets: host of {name}") for host in request.hosts))
    header = request.header.lower()
    if not _HEADER.fullmatch(header) or header in _STRUCTURAL:
        raise InvalidRequest(f"secrets: {name} cannot be put into this header; use one like authorization or x-api-key")
    placeholder = f"terp-secret-{name.lower()}" if request.placeholder is None else request.placeholder
    if not _PLACEHOLDER.fullmatch(placeholder):
        raise InvalidRequest(
            f"secrets: the placeholder of {name} must have 8 to {MAX_PLACEHOLDER_CHARS} printable ASCII characters,"
            " no spaces"
        )
    if len(request.value) > MAX_CREDENTIAL_BYTES:
        raise TooLarge(
            f"secrets: the value of {name} may have {MAX_CREDENTIAL_BYTES} bytes at most",
            fields={"limit": MAX_CREDENTIAL_BYTES},
        )
    if not _VALUE.fullmatch(request.value) or request.value != request.value.strip():
        raise InvalidRequest(f"secrets: the value of {name} must be printable ASCII, without spaces around it")
    return Credential(name, hosts, header, placeholder, request.value)
