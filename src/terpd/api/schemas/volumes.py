"""Volumes on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from terpd.api.respond import optional_timestamp, timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.volumes import VolumeRequest
from terpd.model.errors import InvalidRequest
from terpd.model.volume import MAX_LIFETIME_DAYS, MAX_LIFETIME_HOURS, Lifetime, Volume, VolumeStatus

_EXAMPLE: JsonDict = {
    "id": "vol_01JG0000000000000000000000",
    "name": "cache",
    "size_mb": 10240,
    "status": "attached",
    "region": "local",
    "node_id": "node-1",
    "attached_sandbox_id": "sbx_01JG0000000000000000000000",
    "max_lifetime_days": 30,
    "max_lifetime_hours": None,
    "created_at": "2026-01-01T00:00:00.000000Z",
    "expires_at": "2026-01-31T00:00:00.000000Z",
}
_DAYS = f"1 to {MAX_LIFETIME_DAYS}, from its creation; then it is deleted, once no sandbox holds it"
_HOURS = f"1 to {MAX_LIFETIME_HOURS}, instead of max_lifetime_days"


class VolumeCreateBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "cache", "size_gb": 20}]})

    name: str = Field(description="1 to 128 bytes, printable; of its own among the tenant's volumes")
    size_gb: float = Field(
        10, allow_inf_nan=False, description="0.25 or more, in GiB; what is not written takes no room"
    )
    region: str | None = Field(None, description="The server's own, or left out")
    max_lifetime_days: int | None = Field(None, description=_DAYS)
    max_lifetime_hours: int | None = Field(None, description=_HOURS)

    def to_request(self) -> VolumeRequest:
        return VolumeRequest(
            name=self.name,
            size_gb=self.size_gb,
            region=self.region,
            lifetime=Lifetime(self.max_lifetime_days, self.max_lifetime_hours),
        )


class VolumeLifetimeBody(RequestBody):
    """Exactly one of them; null clears it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_lifetime_days": 30}]})

    max_lifetime_days: int | None = Field(None, description=_DAYS)
    max_lifetime_hours: int | None = Field(None, description=_HOURS)

    def to_lifetime(self) -> Lifetime:
        if len(self.model_fields_set) != 1:
            raise InvalidRequest("Give exactly one of max_lifetime_days and max_lifetime_hours; null clears it")
        return Lifetime(self.max_lifetime_days, self.max_lifetime_hours)


class VolumeMoveBody(RequestBody):
    region: str


class VolumeBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    name: str
    size_mb: int = Field(description="A ceiling, in MiB")
    status: Literal["available", "attached", "moving", "stored", "deleting"]
    region: str
    node_id: str | None = Field(description="Where its disk is; null before its first use and while it is stored")
    attached_sandbox_id: str | None = Field(description="Who holds it, paused sandboxes included")
    max_lifetime_days: int | None
    max_lifetime_hours: int | None
    created_at: str
    expires_at: str | None


class VolumesBody(AnswerBody):
    volumes: list[VolumeBody]


def volume_object(volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "size_mb": volume.size_mib,
        "status": volume.status.value,
        "region": volume.region,
        "node_id": None if volume.status is VolumeStatus.STORED else volume.node_id,
        "attached_sandbox_id": volume.attached_to,
        "max_lifetime_days": volume.lifetime_days,
        "max_lifetime_hours": volume.lifetime_hours,
        "created_at": timestamp(volume.created_at),
        "expires_at": optional_timestamp(volume.expires_at),
    }
