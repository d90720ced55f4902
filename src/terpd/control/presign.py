"""
Presigned files: a token that opens one file of one sandbox for reading or for writing, without a key, for a while.

A token is what it grants as JSON and an HMAC-SHA256 over that, both in base64url, with a dot between. The secret is
derived from the server's key: nothing is recorded, and a token outlives restarts and a rotation of the key.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

from terpd.control.checks import check_path, check_writable
from terpd.control.clock import Clock
from terpd.control.files import DEFAULT_MODE, Files
from terpd.control.policy import Policy
from terpd.model.errors import Forbidden, InvalidRequest, StateConflict, Unauthenticated
from terpd.model.guest import OpenFile
from terpd.model.ids import SandboxId, TenantId, parse_sandbox_id
from terpd.model.ports import Store
from terpd.model.sandbox import FINAL
from terpd.sealing.keyring import KeyRing

MIN_EXPIRES_S = 60
MAX_EXPIRES_S = 3600

_USE = "presigned-file"
_MAX_TOKEN_CHARS = 48 * 1024  # a path has 4 KiB, each byte of it 6 characters in JSON and these 8 in base64


class Act(StrEnum):
    """What a token allows, as the HTTP method that it is for."""

    DOWNLOAD = "GET"
    UPLOAD = "PUT"


@dataclass(frozen=True, slots=True)
class Grant:
    """`path` is checked. `expires_at` has whole seconds."""

    tenant: TenantId
    sandbox_id: SandboxId
    path: str
    act: Act
    expires_at: dt.datetime


class Presign:
    """`public_url` is where clients reach this server, without a slash at its end; None where nobody has said."""

    def __init__(self, store: Store, files: Files, policy: Policy, keys: KeyRing, clock: Clock) -> None:
        self._store = store
        self._files = files
        self._keys = keys
        self._clock = clock
        self.public_url = policy.public_url

    async def grant(
        self, tenant: TenantId, sandbox_id: SandboxId, path: str, act: Act, *, expires_in: int
    ) -> tuple[str, Grant]:
        """
        Return a token and what it grants. The file need not exist, and the sandbox need not run, before it is used.

        Raises:
            InvalidRequest: *path*, or *expires_in* (60 to 3600 seconds).
            NotPermitted: To write there.
            SandboxNotFound.
            StateConflict: The sandbox has ended.
        """
        path = check_path(path) if act is Act.DOWNLOAD else check_writable(path)
        if not MIN_EXPIRES_S <= expires_in <= MAX_EXPIRES_S:
            raise InvalidRequest(f"expires_in must be {MIN_EXPIRES_S} to {MAX_EXPIRES_S} seconds, not: {expires_in}")
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        if sandbox.status in FINAL:
            raise StateConflict(
                f"Sandbox {sandbox_id} is {sandbox.status} ({sandbox.end_reason}); create a new one",
                fields={"status": str(sandbox.status)},
            )
        expires_at = (self._clock.now() + dt.timedelta(seconds=expires_in)).replace(microsecond=0)
        grant = Grant(tenant, sandbox_id, path, act, expires_at)
        return _token(self._keys.derive(_USE), grant), grant

    async def open(self, grant: Grant, *, offset: int = 0, limit: int | None = None) -> OpenFile:
        """As `Files.open`, of the file that is granted."""
        return await self._files.open(grant.tenant, grant.sandbox_id, grant.path, offset=offset, limit=limit)

    async def write(self, grant: Grant, chunks: AsyncIterator[bytes]) -> int:
        """As `Files.write_stream`, to the file that is granted."""
        return await self._files.write_stream(grant.tenant, grant.sandbox_id, grant.path, chunks, DEFAULT_MODE)

    def check(self, token: str, act: Act) -> Grant:
        """
        Return what *token* grants.

        Raises:
            Unauthenticated: It is no token of this server.
            Forbidden: It has expired, or is for the other act.
        """
        payload, signature = _split(token)
        # All are compared, and in constant time.
        genuine = [
            hmac.compare_digest(signature, hmac.digest(secret, payload, "sha256"))
            for secret in self._keys.derive_all(_USE)
        ]
        if not any(genuine):
            raise _unknown()
        grant = _grant(payload)
        if grant.expires_at <= self._clock.now():
            raise Forbidden(f"This URL has expired, at {grant.expires_at:%Y-%m-%dT%H:%M:%SZ}; ask for a new one")
        if grant.act is not act:
            raise Forbidden(f"This URL is for {grant.act} and not for {act}; ask for one of the other kind")
        return grant


def _unknown() -> Unauthenticated:
    return Unauthenticated("This is no URL of a presigned file of this server, or it was cut or changed on the way")


def _token(secret: bytes, grant: Grant) -> str:
    payload = json.dumps(
        {
            "t": grant.tenant,
            "s": grant.sandbox_id,
            "p": grant.path,
            "m": grant.act,
            "e": int(grant.expires_at.timestamp()),
        },
        separators=(",", ":"),
        ensure_ascii=True,
    ).encode("ascii")
    return f"{_encode(payload)}.{_encode(hmac.digest(secret, payload, 'sha256'))}"


def _split(token: str) -> tuple[bytes, bytes]:
    if len(token) > _MAX_TOKEN_CHARS:
        raise _unknown()
    payload, _, signature = token.partition(".")
    try:
        return _decode(payload), _decode(signature)
    except (binascii.Error, ValueError):
        raise _unknown() from None


def _grant(payload: bytes) -> Grant:
    """Of a payload that this server has signed."""
    content = json.loads(payload)
    sandbox_id = parse_sandbox_id(content["s"])
    assert sandbox_id is not None
    expires_at = dt.datetime.fromtimestamp(content["e"], dt.UTC)
    return Grant(TenantId(content["t"]), sandbox_id, content["p"], Act(content["m"]), expires_at)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    """Exactly one text is accepted for each value, so that a changed token is never a valid one. Raises ValueError."""
    data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if _encode(data) != text:
        raise ValueError("not the canonical form")
    return data
