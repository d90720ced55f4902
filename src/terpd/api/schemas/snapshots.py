"""Named snapshots on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from terpd.api.respond import optional_timestamp, timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.model.errors import TerpError
from terpd.model.sandbox import Sandbox
from terpd.model.snapshot import Snapshot, SnapshotStatus

INCLUDE_SECRETS = (
    "Whether the copy has the variables that were set through `…/env`, and the secrets of commands that run. Without it"
    " the former are left out, and while there are the latter the answer is 409 `secrets_in_use`"
)

_MIB = 1 << 20

_EXAMPLE: JsonDict = {
    "id": "snap_01JG0000000000000000000000",
    "status": "ready",
    "name": "after setup",
    "source_sandbox_id": "sbx_01JG0000000000000000000000",
    "template": "python-3.12",
    "size": "small",
    "cpu": 1,
    "memory_mb": 1024,
    "network": "off",
    "size_mb": 5,
    "stored_bytes": 5242880,
    "stopped_ms": 12.5,
    "node_id": "node-1",
    "region": "local",
    "error_message": None,
    "created_at": "2026-01-01T00:00:00.000000Z",
    "ready_at": "2026-01-01T00:00:00.060000Z",
}


class SnapshotNameBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "after setup"}]})

    name: str | None = Field(None, description="For people: 1 to 128 bytes, printable; need not be unique")
    include_secrets: bool = Field(False, description=INCLUDE_SECRETS)


class SnapshotBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    status: Literal["capturing", "ready", "failed"]
    name: str | None
    source_sandbox_id: str = Field(description="The sandbox that it was taken of; it may be terminated")
    template: str
    size: str
    cpu: float
    memory_mb: int
    network: str
    size_mb: int | None = Field(description="stored_bytes in MiB, rounded up")
    stored_bytes: int | None = Field(
        description="What it takes of the server's disk, encrypted, with what it shares with others"
    )
    stopped_ms: float | None = Field(description="How long the source stood still for it")
    node_id: str
    region: str
    error_message: str | None
    created_at: str
    ready_at: str | None


class SnapshotsBody(AnswerBody):
    snapshots: list[SnapshotBody]


def snapshot_object(snapshot: Snapshot) -> dict[str, Any]:
    stored = snapshot.stored_bytes
    return {
        "id": snapshot.id,
        "status": snapshot.status.value,
        "name": snapshot.name,
        "source_sandbox_id": snapshot.source,
        "template": snapshot.template,
        "size": snapshot.size.name,
        "cpu": snapshot.size.vcpus,
        "memory_mb": snapshot.size.memory_mib,
        "network": snapshot.network.value,
        "size_mb": None if stored is None else -(-stored // _MIB),
        "stored_bytes": stored,
        "stopped_ms": None if snapshot.stopped_ms is None else round(snapshot.stopped_ms, 2),
        "node_id": snapshot.node_id,
        "region": snapshot.region,
        "error_message": snapshot.error,
        "created_at": timestamp(snapshot.created_at),
        "ready_at": optional_timestamp(snapshot.ready_at),
    }


def failed_object(source: Sandbox, name: str | None, error: TerpError) -> dict[str, Any]:
    """What clients read when a failure comes after 201 was said. It has no id, for nothing was kept."""
    return {
        "id": "",
        "status": SnapshotStatus.FAILED.value,
        "name": name,
        "source_sandbox_id": source.id,
        "template": source.template,
        "size": source.size.name,
        "cpu": source.size.vcpus,
        "memory_mb": source.size.memory_mib,
        "network": source.network.value,
        "node_id": source.node_id,
        "region": source.region,
        "error_message": error.detail,
    }
