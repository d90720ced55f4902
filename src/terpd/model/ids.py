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
StateId = NewType("StateId", str)
VolumeId = NewType("VolumeId", str)
WebhookId = NewType("WebhookId", str)

_ULID = r"[0-9A-HJKMNP-TV-Z]{26}"
_SANDBOX = re.compile(rf"sbx_{_ULID}")
_STATE = re.compile(rf"snap_{_ULID}")
_EXEC = re.compile(rf"cmd_{_ULID}")
_VOLUME = re.compile(rf"vol_{_ULID}")
_WEBHOOK = re.compile(rf"wh_{_ULID}")


def new_sandbox_id() -> SandboxId:
    return SandboxId(f"sbx_{ULID()}")


def new_key_id() -> KeyId:
    return KeyId(f"key_{ULID()}")


def new_exec_id() -> ExecId:
    return ExecId(f"cmd_{ULID()}")


def new_state_id() -> StateId:
    """Names a saved machine: what a pause left, or a named snapshot, whose public id it is."""
    return StateId(f"snap_{ULID()}")


def new_volume_id() -> VolumeId:
    return VolumeId(f"vol_{ULID()}")


def new_webhook_id() -> WebhookId:
    return WebhookId(f"wh_{ULID()}")


def new_delivery_id() -> str:
    """Names one event on its way to one webhook, over all tries."""
    return f"evt_{ULID()}"


def new_layer_id() -> str:
    """Names one layer of a disk, for good: `l_` and a ULID in lower case."""
    return f"l_{ULID()}".lower()


def new_machine_id() -> str:
    """Lower case, for it names cgroups and directories: `m_` and a ULID."""
    return f"m_{ULID()}".lower()


def parse_sandbox_id(text: str) -> SandboxId | None:
    """Return *text* as an id, or None when it has not the form of one."""
    return SandboxId(text) if _SANDBOX.fullmatch(text) else None


def parse_state_id(text: str) -> StateId | None:
    return StateId(text) if _STATE.fullmatch(text) else None


def parse_exec_id(text: str) -> ExecId | None:
    return ExecId(text) if _EXEC.fullmatch(text) else None


def parse_volume_id(text: str) -> VolumeId | None:
    return VolumeId(text) if _VOLUME.fullmatch(text) else None


def parse_webhook_id(text: str) -> WebhookId | None:
    return WebhookId(text) if _WEBHOOK.fullmatch(text) else None
