"""Volumes as the store would hold them."""

from __future__ import annotations

from dataclasses import replace

from support.sandboxes import NOON, TENANT
from support.snapshots import SERVER_KEYS
from terpd.model.ids import new_volume_id
from terpd.model.volume import Volume, VolumeStatus


def make_volume(**changes: object) -> Volume:
    volume_id = new_volume_id()
    key = SERVER_KEYS.new_data_key(volume_id)
    volume = Volume(
        id=volume_id,
        tenant=TENANT,
        name="data",
        size_mib=1024,
        status=VolumeStatus.AVAILABLE,
        region="local",
        node_id=None,
        created_at=NOON,
        key_id=key.id,
        sealed_key=key.sealed,
    )
    return replace(volume, **changes)  # type: ignore[arg-type]
