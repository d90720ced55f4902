"""Rows to nouns and back: the only place where a column's name meets a field's."""

from __future__ import annotations

from typing import Any

from terpd.model.ids import KeyId, SandboxId, StateId, TenantId, VolumeId
from terpd.model.network import Credential, Decision, EgressRecord, Protocol, Reason, Traffic
from terpd.model.ports import ApiKey
from terpd.model.sandbox import EndReason, Network, OnTimeout, Sandbox, Size, Status
from terpd.model.snapshot import Receipt, Snapshot, SnapshotStatus


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
        "metadata": dict(sandbox.metadata),
        "started_at": sandbox.started_at,
        "ended_at": sandbox.ended_at,
        "end_reason": None if sandbox.end_reason is None else sandbox.end_reason.value,
        "lease_s": sandbox.lease_s,
        "window_began_at": sandbox.window_began_at,
        "snapshot": sandbox.snapshot,
        "state_id": sandbox.state_id,
        "stored_bytes": sandbox.stored_bytes,
        "paused_expires_at": sandbox.paused_expires_at,
        "key_id": sandbox.key_id,
        "sealed_key": sandbox.sealed_key,
        "allow_domains": None if sandbox.allow_domains is None else list(sandbox.allow_domains),
        "report_only": sandbox.report_only,
        "preview_auth": sandbox.preview_auth,
        "credentials": [_credential_to_json(credential) for credential in sandbox.credentials],
        "volume": sandbox.volume,
        "volume_id": sandbox.volume_id,
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
        lease_s=row.lease_s,
        window_began_at=row.window_began_at,
        snapshot=None if row.snapshot is None else StateId(row.snapshot),
        state_id=None if row.state_id is None else StateId(row.state_id),
        stored_bytes=row.stored_bytes,
        paused_expires_at=row.paused_expires_at,
        key_id=row.key_id,
        sealed_key=None if row.sealed_key is None else bytes(row.sealed_key),
        allow_domains=None if row.allow_domains is None else tuple(row.allow_domains),
        report_only=row.report_only,
        preview_auth=row.preview_auth,
        credentials=tuple(_credential_from_json(credential) for credential in row.credentials or ()),
        volume=row.volume,
        volume_id=None if row.volume_id is None else VolumeId(row.volume_id),
    )


def _credential_to_json(credential: Credential) -> dict[str, Any]:
    """Whatever it holds, its value is not recorded."""
    return {
        "name": credential.name,
        "hosts": list(credential.hosts),
        "header": credential.header,
        "placeholder": credential.placeholder,
    }


def _credential_from_json(found: dict[str, Any]) -> Credential:
    return Credential(found["name"], tuple(found["hosts"]), found["header"], found["placeholder"], value="")


def egress_to_row(record: EgressRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "sandbox_id": record.sandbox_id,
        "tenant": record.tenant,
        "at": record.at,
        "protocol": record.protocol.value,
        "name": record.name,
        "address": record.address,
        "port": record.port,
        "decision": record.decision.value,
        "reason": record.reason.value,
        "bytes_out": record.bytes_out,
        "bytes_in": record.bytes_in,
        "duration_ms": record.duration_ms,
        "credential": record.credential,
    }


def egress_from_row(row: Any) -> EgressRecord:
    return EgressRecord(
        id=row.id,
        sandbox_id=SandboxId(row.sandbox_id),
        tenant=TenantId(row.tenant),
        at=row.at,
        protocol=Protocol(row.protocol),
        name=row.name,
        address=row.address,
        port=row.port,
        decision=Decision(row.decision),
        reason=Reason(row.reason),
        bytes_out=row.bytes_out,
        bytes_in=row.bytes_in,
        duration_ms=row.duration_ms,
        credential=row.credential,
    )


def traffic_from_row(row: Any) -> Traffic:
    return Traffic(row.bytes_out, row.bytes_in, row.connections, row.blocked)


def snapshot_to_row(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "tenant": snapshot.tenant,
        "status": snapshot.status.value,
        "name": snapshot.name,
        "source": snapshot.source,
        "template": snapshot.template,
        "size": snapshot.size.name,
        "vcpus": snapshot.size.vcpus,
        "memory_mib": snapshot.size.memory_mib,
        "network": snapshot.network.value,
        "region": snapshot.region,
        "node_id": snapshot.node_id,
        "created_at": snapshot.created_at,
        "for_fork": snapshot.for_fork,
        "ready_at": snapshot.ready_at,
        "stored_bytes": snapshot.stored_bytes,
        "stopped_ms": snapshot.stopped_ms,
        "error": snapshot.error,
        "allow_domains": None if snapshot.allow_domains is None else list(snapshot.allow_domains),
        "report_only": snapshot.report_only,
        "key_id": snapshot.key_id,
        "sealed_key": snapshot.sealed_key,
    }


def snapshot_from_row(row: Any) -> Snapshot:
    return Snapshot(
        id=StateId(row.id),
        tenant=TenantId(row.tenant),
        status=SnapshotStatus(row.status),
        name=row.name,
        source=SandboxId(row.source),
        template=row.template,
        size=Size(row.size, row.vcpus, row.memory_mib),
        network=Network(row.network),
        region=row.region,
        node_id=row.node_id,
        created_at=row.created_at,
        for_fork=row.for_fork,
        ready_at=row.ready_at,
        stored_bytes=row.stored_bytes,
        stopped_ms=row.stopped_ms,
        error=row.error,
        allow_domains=None if row.allow_domains is None else tuple(row.allow_domains),
        report_only=row.report_only,
        key_id=row.key_id,
        sealed_key=None if row.sealed_key is None else bytes(row.sealed_key),
    )


def receipt_to_row(receipt: Receipt) -> dict[str, Any]:
    return {
        "subject": receipt.subject,
        "tenant": receipt.tenant,
        "what": receipt.what,
        "at": receipt.at,
        "key_id": receipt.key_id,
        "server_key_id": receipt.server_key_id,
    }


def receipt_from_row(row: Any) -> Receipt:
    return Receipt(
        tenant=TenantId(row.tenant),
        subject=row.subject,
        what=row.what,
        at=row.at,
        key_id=row.key_id,
        server_key_id=row.server_key_id,
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
