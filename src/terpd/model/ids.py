"""
Typed, prefixed identifiers.

An id is its prefix and a ULID (26 characters of Crockford base 32, time-ordered): `sbx_01J…`.
Ids from outside are parsed before use, so that an id is always safe in a path, a cgroup name or a log line.
"""

from __future__ import annotations

import re
from typing import NewType

from ulid import ULID

SandboxId = NewType("SandboxId", str)
TenantId = NewType("TenantId", str)
KeyId = NewType("KeyId", str)
ExecId = NewType("ExecId", str)

_ULID = r"[0-9A-HJKMNP-TV-Z]{26}"
_SANDBOX = re.compile(rf"sbx_{_ULID}")


def new_sandbox_id() -> SandboxId:
    return SandboxId(f"sbx_{ULID()}")


def new_key_id() -> KeyId:
    return KeyId(f"key_{ULID()}")


def new_exec_id() -> ExecId:
    return ExecId(f"cmd_{ULID()}")


def new_machine_id() -> str:
    """Lower case, for it names cgroups and directories: `m_` and a ULID."""
    return f"m_{ULID()}".lower()


def parse_sandbox_id(text: str) -> SandboxId | None:
    """Return *text* as an id, or None when it has not the form of one."""
    return SandboxId(text) if _SANDBOX.fullmatch(text) else None
