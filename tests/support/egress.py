"""Connections as a node tells of them."""

from __future__ import annotations

from dataclasses import replace

from ulid import ULID

from support.sandboxes import NOON
from terpd.model.network import Decision, EgressRecord, Protocol, Reason
from terpd.model.sandbox import Sandbox


def make_egress(sandbox: Sandbox, **changes: object) -> EgressRecord:
    record = EgressRecord(
        id=str(ULID()),
        sandbox_id=sandbox.id,
        tenant=sandbox.tenant,
        at=NOON,
        protocol=Protocol.TLS,
        name="api.example.com",
        address="203.0.113.7",
        port=443,
        decision=Decision.ALLOWED,
        reason=Reason.ALLOWED_NAME,
        bytes_out=100,
        bytes_in=2000,
        duration_ms=30,
        credential="example",
    )
    return replace(record, **changes)  # type: ignore[arg-type]
