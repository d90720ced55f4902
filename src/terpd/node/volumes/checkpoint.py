"""
A volume in the artifact store: its disk, and a manifest that is written last.

    volumes/<volume id>/manifest.json      size and digest of the disk, sealed under the volume's data key
                        <id>.qcow2         the disk, encrypted as it was here

What has no manifest, or is not named by it, is rubbish of a checkpoint that broke off.
"""

from __future__ import annotations

import json

from terpd.model.errors import StateDamaged
from terpd.model.ids import VolumeId, new_layer_id
from terpd.model.ports import KEY_BYTES
from terpd.model.volume import VolumeRef
from terpd.node.artifacts.base import ArtifactInfo, ArtifactStore, is_name
from terpd.sealing.box import SealBroken, seal, unseal

FORMAT = 1
_MAX_BYTES = 4096


def prefix(volume_id: VolumeId) -> str:
    return f"volumes/{volume_id}/"


def new_disk_name(volume_id: VolumeId) -> str:
    return f"{prefix(volume_id)}{new_layer_id()}.qcow2"


async def write(artifacts: ArtifactStore, ref: VolumeRef, disk: ArtifactInfo) -> None:
    """From here on the checkpoint counts."""
    assert len(ref.key) == KEY_BYTES
    content = {"format": FORMAT, "size_mib": ref.size_mib, "name": disk.name, "size": disk.size, "digest": disk.digest}
    sealed = seal(ref.key, json.dumps(content).encode(), context=_context(ref.id))
    await artifacts.put(_manifest(ref.id), sealed)


async def read(artifacts: ArtifactStore, ref: VolumeRef) -> ArtifactInfo | None:
    """
    Return what the disk must be, or None when there is no checkpoint.

    Raises:
        StateDamaged: Its manifest was not written by this server with the volume's key.
        Unavailable: The artifact store is away.
    """
    sealed = await artifacts.read(_manifest(ref.id), limit=_MAX_BYTES)
    if sealed is None:
        return None
    try:
        content = json.loads(unseal(ref.key, sealed, context=_context(ref.id)))
        if content["format"] != FORMAT or content["size_mib"] != ref.size_mib:
            raise ValueError("of another form or size")
        disk = ArtifactInfo(content["name"], content["size"], content["digest"])
        if not disk.name.startswith(prefix(ref.id)) or not is_name(disk.name):
            raise ValueError("it names another volume's disk")
    except (SealBroken, ValueError, KeyError, TypeError) as error:
        raise StateDamaged(f"The checkpoint of volume {ref.id} cannot be used: its manifest is damaged") from error
    return disk


async def discard(artifacts: ArtifactStore, volume_id: VolumeId, *, keep: ArtifactInfo | None = None) -> None:
    """Remove a volume's checkpoint, or with *keep* what is not part of it, the manifest first. Idempotent."""
    manifest = _manifest(volume_id)
    kept = set() if keep is None else {keep.name, manifest}
    names = await artifacts.names(prefix(volume_id))
    for name in sorted(set(names) - kept, key=lambda name: name != manifest):
        await artifacts.discard(name)


def _manifest(volume_id: VolumeId) -> str:
    return f"{prefix(volume_id)}manifest.json"


def _context(volume_id: VolumeId) -> str:
    return f"{volume_id} checkpoint"
