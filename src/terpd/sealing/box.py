"""
One sealed message: AES-256-GCM under a key used for few messages, each with a random nonce.

    version (1 byte) | nonce (12) | ciphertext and tag

*context* says what the message is and whose; it is authenticated and must be the same at opening, so that one sealed
thing cannot be put in the place of another. NIST SP 800-38D allows 2^32 random nonces a key; here it is a handful.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE_BYTES = 12


class SealBroken(Exception):
    """It was sealed with another key or for another context, or it was changed."""


def seal(key: bytes, message: bytes, *, context: str) -> bytes:
    """*key* has 32 bytes."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + AESGCM(key).encrypt(nonce, message, context.encode())


def unseal(key: bytes, sealed: bytes, *, context: str) -> bytes:
    """Raises SealBroken."""
    if sealed[:1] != _VERSION:
        raise SealBroken(f"{context}: sealed in a form that this release does not know")
    try:
        return AESGCM(key).decrypt(sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :], context.encode())
    except (InvalidTag, ValueError) as error:
        raise SealBroken(f"{context}: it does not open with this key, or it was changed") from error
