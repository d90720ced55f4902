"""
A node on a host of its own: the real supervisor, pool, catalog, snapshots and records, over simulated machines.

The template `debian-12` is built and has snapshots of both sizes, `small` and `large`. Machines have no cgroups.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.simulated_network import SimulatedGateway, SimulatedNamespaces, networks
from support.simulated_sealer import SimulatedSealer
from support.simulated_vmm import SimulatedGuest, SimulatedVmm, simulated_vmm
from terpd.model.ids import SandboxId, new_sandbox_id, new_state_id
from terpd.model.network import NetworkSpec
from terpd.model.ports import KEY_BYTES, MachineSpec, StateRef
from terpd.model.sandbox import Size
from terpd.model.snapshot import SavedState
from terpd.node.admission import MONITOR_MIB, Admission
from terpd.node.artifacts.files import FilesStore
from terpd.node.facilities import Facilities
from terpd.node.host import Host
from terpd.node.jail.cgroup import CgroupTree
from terpd.node.jail.uids import UidRange
from terpd.node.pool import Pool, PoolKey
from terpd.node.record import MachineRecord
from terpd.node.snapshot.manifest import Manifest, memory_digest, sha256
from terpd.node.snapshot.template import TemplateSnapshots, variant
from terpd.node.supervisor import Supervisor
from terpd.node.template import artifact
from terpd.node.template.catalog import Catalog, Image, record_of
from terpd.node.template.kernel import Kernel
from terpd.node.vmm.base import Hardware
from terpd.node.volumes.volumes import Volumes

SIZES = {"small": Size("small", 1, 128), "large": Size("large", 2, 512)}
SMALL = PoolKey("debian-12", "small")
LARGE = PoolKey("debian-12", "large")
UNBUILT = PoolKey("unbuilt", "small")


def build_template(home: Path, template: str = "debian-12") -> Image:
    """Write what a build leaves: an (empty) root file system, its record, the kernel."""
    kernel = Kernel("k1", "6.12.1-cloud", home / "kernel/k1")
    kernel.directory.mkdir(parents=True, exist_ok=True)
    kernel.vmlinux.touch()
    artifact.write_json(kernel.directory / "kernel.json", {"format": 1, "version": kernel.version})
    directory = home / "templates" / template / "d1"
    directory.mkdir(parents=True)
    root = directory / "root.ext4"
    root.touch()
    image = Image(
        template=template,
        description="for tests",
        digest="d1",
        inputs="i1",
        root=root,
        kernel=kernel,
        warm=("echo warm",),
        env={},
        package_hosts=(),
        size_bytes=1,
        disk_bytes=1 << 20,
        built_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )
    artifact.write_json(directory / "image.json", record_of(image))
    artifact.point(directory.parent / "current", "d1")
    return image


def template_snapshots(
    home: Path, image: Image, vmm: SimulatedVmm, namespaces: SimulatedNamespaces | None = None
) -> TemplateSnapshots:
    """The real ones, given an initramfs that needs no modules of a kernel."""
    namespaces = namespaces or SimulatedNamespaces()
    snapshots = TemplateSnapshots(home, vmm=vmm, agent=home / "agent", uid=800_099, namespaces=namespaces)
    initrd = home / "initrd/i1.cpio"
    initrd.parent.mkdir(exist_ok=True)
    initrd.touch()
    snapshots._initrds[image.kernel.digest] = initrd
    return snapshots


def save_snapshot(snapshots: TemplateSnapshots, image: Image, size: Size, *, nic: bool = False) -> Path:
    """Write what a preparation leaves, without one."""
    hardware = Hardware(size.vcpus, size.memory_mib, nic)
    directory, made_of = snapshots._place(image, hardware, variant(size.name, nic=nic))
    directory.mkdir(parents=True)
    names = ("memory", "devices", "base.qcow2", "empty.qcow2")
    for name in names:
        (directory / name).write_bytes(name.encode())
    Manifest(
        made_of=made_of,
        sizes={name: len(name) for name in names},
        devices_sha256=sha256(directory / "devices"),
        memory_digest=memory_digest(directory / "memory"),
        virtual_disk_bytes=1 << 20,
    ).write(directory)
    return directory


@dataclass
class Supervised:
    """A host; `daemon` starts one life of a supervisor on it."""

    home: Path
    vmm: SimulatedVmm
    machines_cap: int = 8
    memory_cap_mib: int = 8 * (128 + MONITOR_MIB)
    uid_count: int = 50
    targets: Mapping[PoolKey, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sealer = SimulatedSealer()
        self.artifacts = FilesStore(self.home / "artifacts")
        self.catalog = Catalog(self.home)
        self.image = build_template(self.home)
        self.namespaces = SimulatedNamespaces()
        self.gateway = SimulatedGateway()
        self.snapshots = template_snapshots(self.home, self.image, self.vmm, self.namespaces)
        for size in SIZES.values():
            save_snapshot(self.snapshots, self.image, size)
            save_snapshot(self.snapshots, self.image, size, nic=True)

    @property
    def machines(self) -> Path:
        return self.home / "machines"

    @asynccontextmanager
    async def daemon(self, *, stop_machines: bool = True) -> AsyncIterator[Supervisor]:
        """Everything that a daemon's life keeps in memory is new."""
        self.admission = Admission(self.memory_cap_mib, self.machines_cap)
        self.uids = UidRange(800_000, self.uid_count)
        self.pool = Pool(self.targets)
        self.gateway.served.clear()  # a gateway ends with its daemon
        self.networks = networks(self.namespaces, self.gateway)
        self.volumes = Volumes(self.home / "volumes", self.sealer, self.artifacts)
        supervisor = Supervisor(
            Facilities(
                vmm=self.vmm,
                cgroups=CgroupTree("test", []),
                machines=self.machines,
                sealer=self.sealer,
                artifacts=self.artifacts,
                networks=self.networks,
                volumes=self.volumes,
                owner="test",
            ),
            self.catalog,
            self.snapshots,
            self.admission,
            self.uids,
            self.pool,
            SIZES,
            starts_at_once=2,
        )
        await self.artifacts.open()
        await supervisor.open()
        try:
            yield supervisor
        finally:
            await supervisor.close(stop_machines=stop_machines)

    async def abandon(self, supervisor: Supervisor, capture: asyncio.Task[SavedState]) -> None:
        """As if the daemon died during a capture: that stops where it is, undone by nobody, and no machine is ended."""

        async def nothing() -> None:
            pass

        for each in supervisor._captures._under_way.values():
            each.capture._undo = nothing  # type: ignore[method-assign]
        capture.cancel()
        await asyncio.wait([capture])
        for machine in supervisor._machines.values():
            await machine.release()
        supervisor._machines.clear()

    def node(self, supervisor: Supervisor) -> Host:
        """The supervisor's machines behind the node port."""
        return Host(
            "test",
            supervisor,
            self.catalog,
            self.snapshots,
            self.admission,
            SIZES,
            self.artifacts,
            self.networks,
            self.volumes,
        )

    def stored(self) -> set[str]:
        """Names of all artifacts."""
        top = self.home / "artifacts"
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

    def record(self, sandbox_id: SandboxId) -> MachineRecord:
        (record,) = [each for each in self.records() if each.sandbox_id == sandbox_id]
        return record

    def records(self) -> list[MachineRecord]:
        found = [MachineRecord.find(directory) for directory in self.machines.iterdir()]
        return [record for record in found if record is not None]

    def guest(self, sandbox_id: SandboxId) -> SimulatedGuest:
        return self.vmm.guests[self.record(sandbox_id).machine_id]

    def running(self) -> int:
        return len(self.vmm.running())

    def assert_empty(self) -> None:
        """Nothing runs, lies about, is served or is charged."""
        assert self.running() == 0
        assert self.namespaces.open == []
        assert self.gateway.served == {}
        assert list(self.machines.iterdir()) == []
        assert self.admission.capacity().machines_used == 0
        assert self.admission.capacity().memory_used_mib == 0
        assert self.uids._taken == set()


@asynccontextmanager
async def supervised(home: Path, **settings: object) -> AsyncIterator[Supervised]:
    """Settings are the fields of `Supervised`."""
    async with simulated_vmm() as vmm:
        yield Supervised(home, vmm, **settings)  # type: ignore[arg-type]  # passed through


def spec(
    size: str = "small",
    *,
    sandbox_id: SandboxId | None = None,
    template: str = "debian-12",
    state: StateRef | None = None,
    fork: bool = False,
    network: NetworkSpec | None = None,
) -> MachineSpec:
    """Each sandbox's key is made of its id, and so is each state's."""
    sandbox_id = sandbox_id or new_sandbox_id()
    env = {"SECRET": "se-cr-et"} if state is None else {}
    return MachineSpec(sandbox_id, template, SIZES[size], key_of(sandbox_id), env, state, fork, network)


def key_of(subject: str) -> bytes:
    return hashlib.sha256(subject.encode()).digest()[:KEY_BYTES]


def new_state() -> StateRef:
    state_id = new_state_id()
    return StateRef(state_id, key_of(state_id))
