"""Rows to nouns and back: the only place where a column's name meets a field's."""

from __future__ import annotations

from typing import Any

from terpd.model.ids import KeyId, SandboxId, TenantId
from terpd.model.ports import ApiKey
from terpd.model.sandbox import EndReason, Network, OnTimeout, Sandbox, Size, Status


def sandbox_to_row(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "id": sandbox.id,
        "tenant": sandbox.tenant,
        "status": sandbox.status.value,
        "template": sandbox.template,
        "size": sandbox.size.name,
        "vcpus": sandbox.size.vcpus,
        "memory_mib": sandbox.size.memory_mib,
        "network": sandbox.network.value,
        "region": sandbox.region,
        "node_id": sandbox.node_id,
        "created_at": sandbox.created_at,
        "expires_at": sandbox.expires_at,
        "on_timeout": sandbox.on_timeout.value,
        "auto_resume": sandbox.auto_resume,
        "metadata": sandbox.metadata,
        "started_at": sandbox.started_at,
        "ended_at": sandbox.ended_at,
        "end_reason": None if sandbox.end_reason is None else sandbox.end_reason.value,
    }


def sandbox_from_row(row: Any) -> Sandbox:
    return Sandbox(
        id=SandboxId(row.id),
        tenant=TenantId(row.tenant),
        status=Status(row.status),
        template=row.template,
        size=Size(row.size, row.vcpus, row.memory_mib),
        network=Network(row.network),
        region=row.region,
        node_id=row.node_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        on_timeout=OnTimeout(row.on_timeout),
        auto_resume=row.auto_resume,
        metadata=row.metadata,
        started_at=row.started_at,
        ended_at=row.ended_at,
        end_reason=None if row.end_reason is None else EndReason(row.end_reason),
    )


def key_to_row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "prefix": key.prefix,
        "digest": key.digest,
        "scopes": " ".join(sorted(key.scopes)),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def key_from_row(row: Any) -> ApiKey:
    return ApiKey(
        id=KeyId(row.id),
        tenant=TenantId(row.tenant),
        name=row.name,
        prefix=row.prefix,
        digest=bytes(row.digest),
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
