"""
API keys: made here, shown once, known afterwards by their digest alone.

A key holds 256 random bits, so a plain SHA-256 cannot be searched backwards, and looking a digest up in an index
leaks nothing about the key through its timing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from terpd.control.clock import Clock
from terpd.model.errors import InvalidRequest, Unauthenticated
from terpd.model.ids import KeyId, TenantId, new_key_id
from terpd.model.ports import ApiKey, Store

READ = "sandboxes:read"
WRITE = "sandboxes:write"
METRICS = "metrics:read"  # figures of the whole server: for the operator's monitoring, not for tenants
SCOPES = frozenset({READ, WRITE, METRICS})
DEFAULT_SCOPES = frozenset({READ, WRITE})

_PREFIX_LENGTH = 12
_SECRET_BYTES = 32
_MAX_LENGTH = 256
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as proven by a key."""

    tenant: TenantId
    key_id: KeyId
    scopes: frozenset[str]


class Keys:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self,
        *,
        tenant: str,
        name: str,
        scopes: Collection[str] = DEFAULT_SCOPES,
        lifetime: dt.timedelta | None = None,
    ) -> tuple[str, ApiKey]:
        """
        Return the secret, which is never shown again, and the key as recorded.

        Raises:
            InvalidRequest: Tenant, name, scope or lifetime is not a possible one.
        """
        if not _TENANT.fullmatch(tenant):
            raise InvalidRequest("tenant must be lower-case letters, digits, '_' and '-', 64 at most")
        if not _NAME.fullmatch(name):
            raise InvalidRequest("name must have 1 to 128 characters on one line")
        if not scopes or not SCOPES.issuperset(scopes):
            raise InvalidRequest(f"scopes must be among: {', '.join(sorted(SCOPES))}")
        if lifetime is not None and lifetime <= dt.timedelta():
            raise InvalidRequest("the lifetime must be above zero")
        secret = f"terp_{secrets.token_urlsafe(_SECRET_BYTES)}"
        now = self._clock.now()
        key = ApiKey(
            id=new_key_id(),
            tenant=TenantId(tenant),
            name=name,
            prefix=secret[:_PREFIX_LENGTH],
            digest=_digest(secret),
            scopes=frozenset(scopes),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        await self._store.add_key(key)
        return secret, key

    async def list(self) -> Sequence[ApiKey]:
        """All tenants' keys, revoked and expired ones included; oldest first."""
        return await self._store.list_keys()

    async def revoke(self, key_id: str) -> ApiKey:
        """Takes effect with the next request. Idempotent. Raises NotFound."""
        return await self._store.revoke_key(KeyId(key_id), self._clock.now())

    async def authenticate(self, secret: str) -> Caller:
        """
        Raises:
            Unauthenticated: Unknown, revoked or expired; the caller is not told which.
        """
        key = None if len(secret) > _MAX_LENGTH else await self._store.find_key(_digest(secret))
        if key is None or key.revoked_at is not None or _expired(key, self._clock.now()):
            raise Unauthenticated("The API key is not valid; make one with `terpd key create`")
        return Caller(key.tenant, key.id, key.scopes)


def _expired(key: ApiKey, now: dt.datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
