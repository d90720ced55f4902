"""
The manifest of a saved state: what it is made of, written last, so that a state with a manifest is whole.

    states/<state id>/manifest.json
        public    template and what its snapshot was made of, hardware, parts with sizes and digests
        sealed    under the state's key: a digest of the public part, and the secrets of the disk's layers

The public part can be read without a key, since who removes what nobody needs has none; who restores checks it against
the sealed digest. The parts are checked by the artifact store against their digests, which stand in the public part.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from blake3 import blake3

from terpd.model.errors import StateDamaged, StateMismatch
from terpd.model.ids import StateId
from terpd.node.artifacts.base import ArtifactInfo, ArtifactStore, is_name
from terpd.node.snapshot.manifest import SnapshotMismatch
from terpd.node.snapshot.template import TemplateSnapshot, TemplateSnapshots
from terpd.node.vmm.base import Hardware
from terpd.sealing.box import SealBroken, seal, unseal

FORMAT = 1
MAX_BYTES = 1 << 20  # a layer takes 200 bytes in it
MAX_LAYERS = 64


def manifest_name(state_id: StateId) -> str:
    return f"states/{state_id}/manifest.json"


def memory_name(state_id: StateId) -> str:
    return f"states/{state_id}/memory"


def devices_name(state_id: StateId) -> str:
    return f"states/{state_id}/devices"


def layer_name(layer_id: str) -> str:
    return f"layers/{layer_id}.qcow2"


def layer_id(name: str) -> str:
    return name.removeprefix("layers/").removesuffix(".qcow2")


@dataclass(frozen=True, slots=True)
class Origin:
    """
    The template snapshot that a machine was started from: a state is the difference to it.

    Attributes:
        directory: Its name; the snapshot there must be made of the very same.
        memory_digest: Of its memory file.
    """

    template: str
    directory: str
    made_of: Mapping[str, str]
    memory_digest: str


@dataclass(frozen=True, slots=True)
class StateManifest:
    """
    Attributes:
        layers: Of the disk on top of the template's, lowest first; `secrets` in the same order, 32 bytes each.
    """

    id: StateId
    origin: Origin
    hardware: Hardware
    layers: Sequence[ArtifactInfo]
    memory: ArtifactInfo
    devices: ArtifactInfo
    created_at: dt.datetime
    secrets: Sequence[bytes] = field(default=(), repr=False)

    @property
    def parts(self) -> Sequence[ArtifactInfo]:
        return (*self.layers, self.memory, self.devices)

    @property
    def stored_bytes(self) -> int:
        return sum(part.size for part in self.parts)

    def encode(self, key: bytes) -> bytes:
        """For `put`, with the secrets sealed under the state's *key*."""
        public = {**asdict(replace(self, secrets=())), "created_at": self.created_at.isoformat(), "format": FORMAT}
        del public["secrets"]
        secret = {
            "public": _digest(public),
            "secrets": [base64.b64encode(each).decode() for each in self.secrets],
        }
        sealed = seal(key, json.dumps(secret).encode(), context=_context(self.id))
        return json.dumps({"public": public, "sealed": base64.b64encode(sealed).decode()}, indent=1).encode()


def origin_of(template: TemplateSnapshot) -> Origin:
    return Origin(template.image.template, template.directory.name, template.made_of, template.memory_digest)


def find_template(snapshots: TemplateSnapshots, manifest: StateManifest) -> TemplateSnapshot:
    """
    Return the very template snapshot that a state is the difference to. Blocks.

    Raises:
        StateMismatch: It is not here, or this host is another than it was made on; says in what.
    """
    origin = manifest.origin
    try:
        template = snapshots.open_exact(origin.template, origin.directory)
    except SnapshotMismatch as error:
        why = str(error).partition(": ")[2]  # behind the path, which is the operator's
        raise StateMismatch(
            f"The saved state {manifest.id} cannot be used on this node: its template {origin.template}, snapshot"
            f" {origin.directory}: {why}",
            context={"cause": str(error)},
        ) from error
    found = origin_of(template)
    if found == origin and template.hardware == manifest.hardware:
        return template
    differing = sorted(
        name for name in {*origin.made_of, *found.made_of} if origin.made_of.get(name) != found.made_of.get(name)
    ) or ["memory"]
    raise StateMismatch(
        f"The saved state {manifest.id} cannot be used on this node: its template {origin.template} has another"
        f" {', '.join(differing)} here"
    )


async def read(artifacts: ArtifactStore, state_id: StateId, key: bytes) -> StateManifest:
    """
    Raises:
        StateMismatch: Another release wrote it, in a form that this one does not read.
        StateDamaged: It is missing, or not what was written with that key.
        Unavailable: The artifact store is away.
    """
    manifest, public, sealed = await _read(artifacts, state_id)
    try:
        secret = json.loads(unseal(key, base64.b64decode(sealed, validate=True), context=_context(state_id)))
        if secret["public"] != _digest(public):
            raise _damaged(state_id, "its manifest was changed")
        secrets = [base64.b64decode(each) for each in secret["secrets"]]
    except SealBroken as error:
        raise _damaged(state_id, "its manifest does not open with its key") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(state_id, "the secrets in its manifest cannot be read") from error
    if len(secrets) != len(manifest.layers):
        raise _damaged(state_id, "its manifest does not name the secret of each layer")
    return replace(manifest, secrets=secrets)


async def read_public(artifacts: ArtifactStore, state_id: StateId) -> StateManifest:
    """As `read`, without secrets and without knowing whether it was changed: for who holds no key."""
    manifest, _, _ = await _read(artifacts, state_id)
    return manifest


async def _read(artifacts: ArtifactStore, state_id: StateId) -> tuple[StateManifest, Mapping[str, Any], str]:
    content = await artifacts.read(manifest_name(state_id), limit=MAX_BYTES)
    if content is None:
        raise _damaged(state_id, "its manifest is missing")
    try:
        document = json.loads(content)
        public, sealed = document["public"], document["sealed"]
        if public["format"] != FORMAT:
            raise StateMismatch(
                f"The saved state {state_id} is of format {public['format']!r}, and this server reads format {FORMAT};"
                " use the release that it was saved with"
            )
        manifest = _parse(public)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(state_id, "its manifest cannot be read") from error
    if manifest.id != state_id or not isinstance(sealed, str):
        raise _damaged(state_id, "its manifest is another state's")
    return manifest, public, sealed


def _parse(public: Mapping[str, Any]) -> StateManifest:
    """Raises ValueError, KeyError or TypeError."""
    state_id = StateId(_text(public["id"]))
    origin, hardware = public["origin"], public["hardware"]
    layers = [_artifact(each, "layers/") for each in public["layers"]]
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise ValueError(f"{len(layers)} layers")
    return StateManifest(
        id=state_id,
        origin=Origin(
            template=_text(origin["template"]),
            directory=_text(origin["directory"]),
            made_of={_text(name): _text(value) for name, value in origin["made_of"].items()},
            memory_digest=_text(origin["memory_digest"]),
        ),
        hardware=Hardware(
            vcpus=_count(hardware["vcpus"]),
            memory_mib=_count(hardware["memory_mib"]),
            nic=hardware.get("nic", False) is True,
            slot=hardware.get("slot", False) is True,
        ),
        layers=layers,
        memory=_artifact(public["memory"], memory_name(state_id)),
        devices=_artifact(public["devices"], devices_name(state_id)),
        created_at=dt.datetime.fromisoformat(_text(public["created_at"])),
    )


def _artifact(found: Mapping[str, Any], prefix: str) -> ArtifactInfo:
    info = ArtifactInfo(_text(found["name"]), _count(found["size"]), _text(found["digest"]))
    if not info.name.startswith(prefix) or not is_name(info.name):
        raise ValueError(info.name)
    return info


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r}")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"no count: {value!r}")
    return value


def _context(state_id: StateId) -> str:
    return f"{state_id} manifest"


def _digest(public: Mapping[str, Any]) -> str:
    text = json.dumps(public, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()


def _damaged(state_id: StateId, what: str) -> StateDamaged:
    return StateDamaged(f"The saved state {state_id} cannot be used: {what}")
