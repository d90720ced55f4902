"""
The server's keys, which wrap the data keys of sandboxes and snapshots, encrypt nothing else, and make secrets that are
derived when they are needed and stand nowhere.

Written as lines of base64, 32 bytes each: the first wraps, all of them unwrap, so that a new first line rotates.
Without the key that wrapped it, a data key and all that it encrypts is gone for good: back the file up apart from the
data.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from terpd.model.errors import StateMismatch
from terpd.model.ports import KEY_BYTES
from terpd.sealing.box import SealBroken, seal, unseal

_ID_BYTES = 8


class BadKey(Exception):
    """A line is not a key; the text says which line, never what it holds."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh data key: its public id, itself, and wrapped by the server's key."""

    id: str
    secret: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


class KeyRing:
    """Pass the server's keys, the current one first; at least one."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {server_key_id(key): key for key in keys}
        self.current_id = server_key_id(keys[0])

    @property
    def ids(self) -> frozenset[str]:
        """Of all server keys that are here."""
        return frozenset(self._keys)

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Raises BadKey. Empty lines and those that begin with # do not count."""
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                key = base64.b64decode(line.strip(), validate=True)
            except (binascii.Error, ValueError) as error:
                raise BadKey(f"line {number} is not base64") from error
            if len(key) != KEY_BYTES:
                raise BadKey(f"line {number} holds {len(key)} bytes and not {KEY_BYTES}")
            keys.append(key)
        if not keys:
            raise BadKey("there is no key in it")
        return cls(keys)

    def derive(self, label: str) -> bytes:
        """32 bytes that only this server can know, for the one use that *label* names; of its current key."""
        return _derive(self._keys[self.current_id], label)

    def derive_all(self, label: str) -> Sequence[bytes]:
        """As `derive`, of each of the server's keys: what older ones made is known again after a rotation."""
        return [_derive(key, label) for key in self._keys.values()]

    def new_data_key(self, subject: str) -> DataKey:
        """Make the data key of *subject*, the id of a sandbox or a snapshot."""
        secret = os.urandom(KEY_BYTES)
        sealed = self.current_id.encode() + b":" + seal(self._keys[self.current_id], secret, context=subject)
        return DataKey(_id("dk", secret), secret, sealed)

    def unwrap(self, sealed: bytes, subject: str) -> bytes:
        """
        Raises:
            StateMismatch: The server's key that wrapped it is not here, or it is not *subject*'s.
        """
        key_id, _, box = sealed.partition(b":")
        key = self._keys.get(key_id.decode(errors="replace"))
        if key is None:
            raise StateMismatch(
                f"The data key of {subject} was wrapped with the server key {key_id.decode(errors='replace')}, which"
                " this server does not have; give it that key too (docs/settings.md, key_file)"
            )
        try:
            return unseal(key, box, context=subject)
        except SealBroken as error:
            raise StateMismatch(f"The data key of {subject} does not open: {error}") from error


def new_server_key() -> str:
    """A line for the key file."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def server_key_id(key: bytes) -> str:
    return _id("sk", key)


def wrapped_with(sealed: bytes) -> str:
    """The id of the server key that wrapped a data key."""
    return sealed.partition(b":")[0].decode(errors="replace")


def _derive(key: bytes, label: str) -> bytes:
    return hmac.digest(key, b"terp-derive:" + label.encode(), "sha256")


def _id(kind: str, key: bytes) -> str:
    """Public, and says nothing of the key: a hash that is not used for anything else."""
    return f"{kind}_{hashlib.blake2b(key, digest_size=_ID_BYTES, person=b'terp-key-id').hexdigest()}"
