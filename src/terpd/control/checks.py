"""Bounds of what a caller may ask: pure, and each message names the field and what would do."""

from __future__ import annotations

import datetime as dt
import posixpath
import re
from collections.abc import Collection, Mapping, Sequence

from terpd.control.policy import (
    MAX_ENV_BYTES,
    MAX_ENV_PAIRS,
    MAX_METADATA_KEY_BYTES,
    MAX_METADATA_PAIRS,
    MAX_METADATA_VALUE_BYTES,
    MAX_NAME_BYTES,
    MIN_TIMEOUT_S,
)
from terpd.model.errors import InvalidRequest, NotPermitted, PlanLimit, TooLarge
from terpd.model.guest import MAX_COMMAND_BYTES, MAX_PATH_BYTES, WRITE_ROOTS
from terpd.model.names import NameInvalid, normalise
from terpd.model.network import MAX_ALLOW_DOMAINS
from terpd.model.volume import MAX_LIFETIME_DAYS, MAX_LIFETIME_HOURS, Lifetime

MAX_SECRET_BYTES = 64 * 1024  # of one call, names and values together
MAX_SECRETS = 256

_PLAIN_HTTP = "http://"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def check_lease(timeout_s: int, *, maximum: int) -> None:
    if not MIN_TIMEOUT_S <= timeout_s <= maximum:
        raise InvalidRequest(f"timeout_seconds must be {MIN_TIMEOUT_S} to {maximum}, not: {timeout_s}")


def check_lifetime(expires_at: dt.datetime, *, began_at: dt.datetime, maximum_s: int | None) -> None:
    """Raise PlanLimit for a lease that ends later than a sandbox that *began_at* may run in one go."""
    if maximum_s is not None and expires_at - began_at > dt.timedelta(seconds=maximum_s):
        raise PlanLimit(
            "A sandbox may not run that long in one go; a pause and a resume begin a new window."
            f" Limit in seconds: {maximum_s}",
            fields={"reason": "lifetime_cap_reached", "limit": maximum_s},
        )


def check_name(name: str | None) -> None:
    """A snapshot's name is shown to people and is not unique."""
    if name is not None and not (1 <= _size(name, "name") <= MAX_NAME_BYTES and name.isprintable()):
        raise InvalidRequest(f"name must have 1 to {MAX_NAME_BYTES} bytes, all of them printable")


def check_volume_name(name: str) -> None:
    """A volume's name is unique in its tenant, and is never taken for an id."""
    check_name(name)
    if name != name.strip() or name.startswith("vol_"):
        raise InvalidRequest("A volume's name must neither begin with 'vol_' nor begin or end with a space")


def check_lifetime_of_volume(lifetime: Lifetime) -> None:
    if lifetime.days is not None and lifetime.hours is not None:
        raise InvalidRequest("max_lifetime_days and max_lifetime_hours exclude each other")
    if lifetime.days is not None and not 1 <= lifetime.days <= MAX_LIFETIME_DAYS:
        raise InvalidRequest(f"max_lifetime_days must be 1 to {MAX_LIFETIME_DAYS}, not: {lifetime.days}")
    if lifetime.hours is not None and not 1 <= lifetime.hours <= MAX_LIFETIME_HOURS:
        raise InvalidRequest(f"max_lifetime_hours must be 1 to {MAX_LIFETIME_HOURS}, not: {lifetime.hours}")


def check_no_volume(volume: str | None, sandbox_id: str) -> None:
    """Raise InvalidRequest for a sandbox with a volume: a copy of it would write to the same file system."""
    if volume is not None:
        raise InvalidRequest(
            f"Sandbox {sandbox_id} has the volume {volume}; snapshots and forks can be taken of sandboxes without one",
            fields={"volume": volume},
        )


def check_env(env: Mapping[str, str]) -> None:
    if len(env) > MAX_ENV_PAIRS:
        raise TooLarge(f"env may have {MAX_ENV_PAIRS} variables at most; it has: {len(env)}")
    total = 0
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidRequest("env: a name must not be empty and must contain neither '=' nor NUL")
        if "\0" in value:
            raise InvalidRequest("env: a value must not contain NUL")
        total += _size(name, "env") + _size(value, "env") + 2
    if total > MAX_ENV_BYTES:
        raise TooLarge(
            f"env may hold {MAX_ENV_BYTES} bytes in all; put larger values into a file. It holds: {total}",
            fields={"limit": MAX_ENV_BYTES},
        )


def check_secrets(secrets: Mapping[str, str], *, field: str = "secrets") -> None:
    """Variables whose values are shown nowhere, in messages neither."""
    if len(secrets) > MAX_SECRETS:
        raise TooLarge(f"{field} may have {MAX_SECRETS} variables at most; it has: {len(secrets)}")
    check_variables(secrets, field=field)
    total = 0
    for name, value in secrets.items():
        if "\0" in value:
            raise InvalidRequest(f"{field}: a value must not contain NUL")
        total += _size(name, field) + _size(value, field)
    if total > MAX_SECRET_BYTES:
        raise TooLarge(
            f"{field} may hold {MAX_SECRET_BYTES} bytes in all; it holds: {total}", fields={"limit": MAX_SECRET_BYTES}
        )


def check_variables(names: Collection[str], *, field: str) -> None:
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise InvalidRequest(
                f"{field}: the name of a variable has letters, digits and '_', 128 at most, and no digit first"
            )


def check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MAX_METADATA_PAIRS:
        raise TooLarge(f"metadata may have {MAX_METADATA_PAIRS} keys at most; it has: {len(metadata)}")
    for key, value in metadata.items():
        if not 1 <= _size(key, "metadata") <= MAX_METADATA_KEY_BYTES:
            raise InvalidRequest(f"metadata: a key must have 1 to {MAX_METADATA_KEY_BYTES} bytes")
        if _size(value, "metadata") > MAX_METADATA_VALUE_BYTES:
            raise InvalidRequest(f"metadata: a value must have {MAX_METADATA_VALUE_BYTES} bytes at most")
        if "\0" in key or "\0" in value:
            raise InvalidRequest("metadata must not contain NUL")


def check_command(command: str) -> None:
    size = _size(command, "command")
    if not command.strip():
        raise InvalidRequest("command must not be empty")
    if size > MAX_COMMAND_BYTES:
        raise TooLarge(
            f"command may have {MAX_COMMAND_BYTES} bytes at most; write a script to a file and run that."
            f" It has: {size}",
            fields={"limit": MAX_COMMAND_BYTES},
        )
    if "\0" in command:
        raise InvalidRequest("command must not contain NUL")


def check_path(path: str, *, field: str = "path") -> str:
    """Return *path* without '.', '..' and doubled slashes. It is a guest's path; symlinks are the guest's to follow."""
    if not path.startswith("/"):
        raise InvalidRequest(f"{field} must be absolute, like /workspace/main.py")
    if _size(path, field) > MAX_PATH_BYTES:
        raise InvalidRequest(f"{field} may have {MAX_PATH_BYTES} bytes at most")
    if "\0" in path:
        raise InvalidRequest(f"{field} must not contain NUL")
    return "/" + posixpath.normpath(path).lstrip("/")


def check_writable(path: str, *, field: str = "path") -> str:
    """
    As `check_path`, and refuse what is not below a write root.

    This is only for a clear and early answer: the guest decides again, with every symlink resolved.
    """
    path = check_path(path, field=field)
    if not path.startswith(tuple(f"{root}/" for root in WRITE_ROOTS)):
        roots = ", ".join(WRITE_ROOTS)
        raise NotPermitted(f"{field} must be below one of {roots}; use a command for other places")
    return path


def check_writable_directory(path: str) -> str:
    """As `check_writable`, of a directory that things are made in: a write root will do."""
    checked = check_path(path)
    return checked if checked in WRITE_ROOTS else check_writable(path)


def check_allow_domains(domains: Sequence[str] | None) -> Sequence[str] | None:
    """
    Return the list in the form that it is recorded in: each name once, lower case, in punycode.

    `http://` before a name allows plain HTTP on port 80 too.
    """
    if domains is None:
        return None
    if len(domains) > MAX_ALLOW_DOMAINS:
        raise TooLarge(
            f"allow_domains may have {MAX_ALLOW_DOMAINS} names at most; it has: {len(domains)}",
            fields={"limit": MAX_ALLOW_DOMAINS},
        )
    checked: dict[str, None] = {}
    for entry in domains:
        scheme = _PLAIN_HTTP if entry.startswith(_PLAIN_HTTP) else ""
        checked[scheme + check_domain(entry.removeprefix(_PLAIN_HTTP), field="allow_domains")] = None
    return tuple(checked)


def check_domain(name: str, *, field: str) -> str:
    """Return a host's name in lower case and in punycode."""
    try:
        return normalise(name)
    except NameInvalid as error:
        raise InvalidRequest(f"{field}: {error}: {name[:80]!a}") from error


def _size(text: str, field: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{field} must be valid Unicode: it holds half of a surrogate pair") from error
