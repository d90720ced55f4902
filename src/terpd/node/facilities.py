"""What machines are made with here: monitors, cgroups, directories, encryption, networks, the artifact store."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from terpd.node.artifacts.base import ArtifactStore
from terpd.node.jail.cgroup import MONITOR_THREADS, OVERHEAD_BYTES, Cgroup, CgroupTree, Limits, Usage
from terpd.node.network.networks import Networks
from terpd.node.snapshot.sealer import Sealer
from terpd.node.vmm.base import Vmm
from terpd.node.volumes.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Facilities:
    """
    Attributes:
        machines: One directory a machine, on the file system of `artifacts`, which takes layers from there.
        owner: By which templates know that this node's machines and states need them.
    """

    vmm: Vmm
    cgroups: CgroupTree
    machines: Path
    sealer: Sealer
    artifacts: ArtifactStore
    networks: Networks
    volumes: Volumes
    owner: str

    def directory(self, machine_id: str) -> Path:
        return self.machines / machine_id

    def layer(self, machine_id: str, layer_id: str) -> Path:
        """A layer of its disk that a machine made itself."""
        return self.directory(machine_id) / f"{layer_id}.qcow2"

    def cgroup(self, machine_id: str, vcpus: int, memory_mib: int) -> Cgroup:
        memory_bytes = (memory_mib << 20) + OVERHEAD_BYTES
        limits = Limits(cpu_cores=float(vcpus), memory_bytes=memory_bytes, pids=MONITOR_THREADS)
        return self.cgroups.create(machine_id, limits)

    def usage(self, machine_id: str) -> Usage | None:
        cgroup = self.cgroups.find(machine_id)
        return None if cgroup is None else cgroup.usage()

    def remove(self, machine_id: str) -> None:
        """
        Remove what a machine leaves when its monitor is gone. Idempotent; blocks for some milliseconds.

        Raises:
            OSError: The cgroup or the directory cannot be removed; the next start of the daemon tries again.
        """
        if cgroup := self.cgroups.find(machine_id):
            cgroup.kill()
            cgroup.remove()
        directory = self.directory(machine_id)
        while directory.exists():
            with contextlib.suppress(FileNotFoundError):  # something of it went by itself meanwhile: look again
                shutil.rmtree(directory)
