"""
What a machine's directory says of it: enough for a restarted daemon to adopt or reap it.

    machines/<machine id>/record.json          written before the monitor starts (no pid), when it runs, when claimed,
                                               when woken, and around each capture
                          <layer id>.qcow2     layers of its disk that it made itself; the last one takes its writes
                          qmp.sock, agent.sock

Written by rename, so it is never torn by the death of this process. It is not synced: after a power loss no machine
is left that it could describe.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from terpd.model.ids import SandboxId, StateId, VolumeId
from terpd.node.artifacts.base import ArtifactInfo
from terpd.node.jail.process import Process
from terpd.sealing.box import SealBroken, seal, unseal

_NAME = "record.json"


@dataclass(frozen=True, slots=True)
class DiskLayer:
    """
    One layer of a machine's disk. `kept` is the artifact it was frozen as; None for one that is in the machine's
    directory only. What the machine writes to may be kept, too, by a pause that was undone: then under a name that
    nobody uses any more.
    """

    id: str
    kept: ArtifactInfo | None = None


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """
    Attributes:
        sandbox_id: None while the machine waits in a pool.
        pid, started: The monitor's pid and start time in clock ticks since boot (proc(5), field 22): together they
            name one process for good. None before it runs.
        origin: Directory of the template snapshot whose memory it runs on.
        layers: Of its disk on top of the template's, lowest first. After a capture that died the last one may be an
            empty file that the monitor does not know: it counts as a layer all the same, since it changes nothing.
        sealed: Secrets of the layers by id, sealed under the sandbox's data key; may name layers that it no more has.
        awake: Its guest confirmed that it was woken for this sandbox.
        tap: If it has a network device: the monitor's descriptor of its TAP, by which a later daemon finds its network.
        volume: Behind its slot, or about to be.
        capturing: The state that it was being captured into. Written before the guest is frozen, None when it runs.
    """

    machine_id: str
    sandbox_id: SandboxId | None
    template: str
    size: str
    memory_mib: int
    uid: int
    pid: int | None = None
    started: int | None = None
    origin: str = ""
    layers: Sequence[DiskLayer] = ()
    sealed: str = field(default="", repr=False)
    awake: bool = False
    capturing: StateId | None = None
    tap: int | None = None
    volume: VolumeId | None = None

    @property
    def process(self) -> Process | None:
        if self.pid is None or self.started is None:
            return None
        return Process(self.pid, self.started)

    def with_process(self, process: Process) -> MachineRecord:
        return replace(self, pid=process.pid, started=process.started)

    def claimed_by(self, sandbox_id: SandboxId, volume: VolumeId | None = None) -> MachineRecord:
        return replace(self, sandbox_id=sandbox_id, awake=False, volume=volume)

    def with_secrets(self, secrets: Mapping[str, bytes], key: bytes) -> MachineRecord:
        """Seal *secrets*, by layer, under the data key of the record's sandbox."""
        content = json.dumps({name: base64.b64encode(secret).decode() for name, secret in secrets.items()})
        sealed = seal(key, content.encode(), context=self._context)
        return replace(self, sealed=base64.b64encode(sealed).decode())

    def secrets(self, key: bytes) -> dict[str, bytes]:
        """
        Raises:
            SealBroken: *key* is not the sandbox's, a layer's secret is missing, or the record was changed.
        """
        try:
            content = json.loads(unseal(key, base64.b64decode(self.sealed), context=self._context))
            return {layer.id: base64.b64decode(content[layer.id]) for layer in self.layers}
        except (ValueError, KeyError, TypeError) as error:
            raise SealBroken(f"{self._context}: it does not name all layers") from error

    @property
    def _context(self) -> str:
        return f"{self.sandbox_id} layers"

    def write(self, directory: Path) -> None:
        temporary = directory / f".{_NAME}"
        with temporary.open("w") as file:
            json.dump(asdict(self), file)
        os.replace(temporary, directory / _NAME)  # noqa: PTH105  a rename is the point

    @classmethod
    def find(cls, directory: Path) -> MachineRecord | None:
        """
        Return the record; None when the directory has none that can be read: then it is rubbish to remove.

        Those of other releases are read, too: what this one does not know is left out. One that does not say whether
        its guest was woken is of a release that did not save machines: it is taken for awake.
        """
        try:
            found = json.loads((directory / _NAME).read_text())
            known = {name: found[name] for name in found if name in _FIELDS}
            return cls(**{"awake": True, **known, "layers": _layers(known.get("layers", ()))})
        except (OSError, ValueError, TypeError, KeyError):
            return None


_FIELDS = frozenset(each.name for each in fields(MachineRecord))


def _layers(found: Sequence[Mapping[str, Any]]) -> Sequence[DiskLayer]:
    return tuple(DiskLayer(each["id"], ArtifactInfo(**each["kept"]) if each.get("kept") else None) for each in found)
