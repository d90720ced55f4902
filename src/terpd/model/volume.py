"""Volumes: disks that outlive sandboxes, mounted at /persist."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.errors import StateConflict, VolumeInUse
from terpd.model.ids import SandboxId, TenantId, VolumeId

MOUNT_POINT = "/persist"
DEFAULT_SIZE_MIB = 10 * 1024
MIN_SIZE_MIB = 256
MAX_SIZE_MIB = 1024 * 1024
MAX_LIFETIME_DAYS = 3650
MAX_LIFETIME_HOURS = 24


class VolumeStatus(StrEnum):
    AVAILABLE = "available"
    ATTACHED = "attached"  # to a sandbox that is not final, paused ones included
    MOVING = "moving"  # being checkpointed to the artifact store
    STORED = "stored"  # in the artifact store alone; comes back at its next attach
    DELETING = "deleting"  # its key is destroyed; what is left of it is being removed


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a volume is kept, of which one at most is set; without, for ever."""

    days: int | None = None
    hours: int | None = None

    def end(self, created_at: dt.datetime) -> dt.datetime | None:
        if self.days is None and self.hours is None:
            return None
        return created_at + dt.timedelta(days=self.days or 0, hours=self.hours or 0)


FOREVER = Lifetime()


@dataclass(frozen=True, slots=True)
class Volume:
    """
    One volume as recorded. Its name is unique in its tenant. Its file is made when it is attached first.

    Attributes:
        size_mib: A ceiling: what is not written takes no room.
        attached_to: The sandbox that holds it, from the start of its create to its end.
        expires_at: Counted from `created_at`, by `lifetime_days` or `lifetime_hours`, of which one at most is set.
            Then it is deleted, or as soon as nobody holds it.
        sealed_key: The data key of its disk, wrapped by the server's.
    """

    id: VolumeId
    tenant: TenantId
    name: str
    size_mib: int
    status: VolumeStatus
    region: str
    node_id: str | None
    created_at: dt.datetime
    attached_to: SandboxId | None = None
    lifetime_days: int | None = None
    lifetime_hours: int | None = None
    expires_at: dt.datetime | None = None
    key_id: str | None = None
    sealed_key: bytes | None = field(default=None, repr=False)


def why_not_free(volume: Volume) -> VolumeInUse | StateConflict:
    """The error for who wants a volume that is neither AVAILABLE nor STORED."""
    if volume.attached_to is not None:
        return VolumeInUse(
            f"Volume {volume.name} is attached to sandbox {volume.attached_to}; terminate that first",
            fields={"sandbox_id": volume.attached_to},
        )
    return StateConflict(
        f"Volume {volume.name} is {volume.status}; try again when that is done", fields={"status": str(volume.status)}
    )


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """
    A volume for a machine, and the data key of its disk: kept in memory only.

    `new`: no machine ran with it yet, so its disk may have to be made.
    """

    id: VolumeId
    size_mib: int
    key: bytes = field(repr=False)
    new: bool = False
