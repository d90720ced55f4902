"""Wiring of everything that happens on this host: from configuration to a node."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from terpd.daemon.config import Config, load
from terpd.egress.client import GatewayClient
from terpd.egress.namespaces import NamespaceHelper
from terpd.model.errors import InvalidRequest, StateConflict, TemplateNotFound, Unavailable
from terpd.model.sandbox import Size
from terpd.node.admission import Admission
from terpd.node.artifacts.base import ArtifactStore
from terpd.node.artifacts.files import FilesStore
from terpd.node.facilities import Facilities
from terpd.node.host import Host
from terpd.node.jail.cgroup import CgroupTree
from terpd.node.jail.launch import LaunchFailed
from terpd.node.jail.process import scan
from terpd.node.jail.root import JailRoot, RootFailed, prepare_root
from terpd.node.jail.uids import UidRange
from terpd.node.network.networks import Networks
from terpd.node.pool import Pool, PoolKey
from terpd.node.snapshot.sealer import VaultSealer
from terpd.node.snapshot.template import TemplateSnapshot, TemplateSnapshots
from terpd.node.snapshot.warm_up import PreparationFailed
from terpd.node.supervisor import Supervisor
from terpd.node.template import artifact
from terpd.node.template.catalog import Catalog, Image
from terpd.node.template.initrd import ensure_initrd
from terpd.node.template.progress import Progress, Quiet
from terpd.node.vmm.accel import Acceleration, Trial, probe
from terpd.node.vmm.qemu import Qemu
from terpd.node.vmm.tsc import host_khz
from terpd.node.volumes.volumes import Volumes

if TYPE_CHECKING:
    from terpd.node.artifacts.bucket import Bucket

log = structlog.get_logger()

_BUILT = Path(__file__).resolve().parents[3] / "target/x86_64-unknown-linux-gnu/release"  # of the source tree
AGENT = _BUILT / "terp-agent"
LAUNCHER = _BUILT / "terp-jail"
VAULT = _BUILT / "terp-vault"


@dataclass(frozen=True, slots=True)
class Workshop:
    """What makes template snapshots on this host; needs no data directory and no running server."""

    vmm: Callable[..., Qemu]  # takes the name of an instance
    acceleration: Acceleration
    catalog: Catalog
    snapshots: TemplateSnapshots
    sizes: Mapping[str, Size]
    namespaces: NamespaceHelper  # starts with the first network that is made; to be closed then

    async def snapshot(
        self, template: str, size: str, progress: Progress | None = None, *, nic: bool = False
    ) -> TemplateSnapshot:
        """
        Return the snapshot of a built template, prepared first when there is none.

        Args:
            nic: That of machines with a network device.

        Raises:
            TemplateNotFound, InvalidRequest: No such template is built, or no such size configured.
            Unavailable: It did not boot or warm up.
        """
        image = self.catalog.find(template)
        if image is None:
            raise TemplateNotFound(f"Template {template} is not built here; run: terpd template build {template}")
        return await self.take(image, size, progress or Quiet(), nic=nic)

    async def take(self, image: Image, size: str, progress: Progress, *, nic: bool = False) -> TemplateSnapshot:
        """As `snapshot`, of an image at hand."""
        if size not in self.sizes:
            raise InvalidRequest(f"Size {size} is not configured; there are: {', '.join(self.sizes)}")
        try:
            return await self.snapshots.ensure(image, self.sizes[size], progress, nic=nic)
        except PreparationFailed as error:
            raise Unavailable(str(error)) from error


async def open_workshop(config: Config) -> Workshop:
    """
    Probe this host; some seconds on the first call on a host, milliseconds after.

    Raises:
        Unavailable: QEMU, the launcher or the guest agent is not there or does not run; says what to do.
    """
    catalog = Catalog(config.home)
    try:
        root = await asyncio.to_thread(prepare_root, config.home)
    except RootFailed as error:
        raise Unavailable(str(error)) from error
    # Daemons take uids from the front of the range; what is prepared or tried has the last.
    uid = config.uid_first + config.uid_count - 1
    try:
        acceleration = await _accelerate(config.home, catalog, root, uid)
    except LaunchFailed as error:
        raise Unavailable(f"Machines cannot be started here; `terpd doctor` says more: {error}") from error
    tsc_khz = await asyncio.to_thread(host_khz, config.home)
    vmm = partial(Qemu, root=root, launcher=LAUNCHER, accel=acceleration.name, tsc_khz=tsc_khz)
    namespaces = NamespaceHelper()
    snapshots = TemplateSnapshots(
        config.home, vmm=vmm(instance=_preparing(config.home)), agent=AGENT, uid=uid, namespaces=namespaces
    )
    return Workshop(vmm, acceleration, catalog, snapshots, config.policy().sizes, namespaces)


def artifact_store(config: Config) -> ArtifactStore:
    """
    Where saved states are kept, not opened yet.

    Raises:
        Unavailable: The settings of S3 cannot be used.
    """
    files = FilesStore(config.artifacts, reserve_bytes=config.disk_reserve_mib << 20)
    if config.s3_bucket is None:
        return files
    from terpd.node.artifacts.s3 import S3Store  # noqa: PLC0415  see bucket_of

    return S3Store(bucket_of(config), files, cache_bytes=config.artifact_cache_mib << 20)


def bucket_of(config: Config) -> Bucket:
    """The bucket of the settings, which must name one. Raises Unavailable."""
    from terpd.node.artifacts.bucket import Bucket  # noqa: PLC0415  boto3 takes a third of a second to import

    assert config.s3_bucket is not None
    return Bucket(config.s3_bucket, config.s3_prefix, endpoint=config.s3_endpoint, region=config.s3_region)


async def open_node(config: Config) -> tuple[Host, Supervisor]:
    """Wire this host as a node. Nothing is started: that is `Supervisor.open`."""
    artifacts = artifact_store(config)
    await artifacts.open()
    workshop = await open_workshop(config)
    log.info("acceleration", name=workshop.acceleration.name, reason=workshop.acceleration.reason)
    instance = instance_name(config.data_dir)
    networks = Networks(workshop.namespaces, GatewayClient(config.upstream()), ready=config.network_pool)
    admission = Admission(config.memory_cap_mib or _host_memory_mib(), config.machines_cap)
    sealer = VaultSealer(VAULT)
    volumes = Volumes(config.data_dir / "volumes", sealer, artifacts)
    supervisor = Supervisor(
        Facilities(
            vmm=workshop.vmm(instance=instance),
            cgroups=CgroupTree(instance),
            machines=config.data_dir / "machines",
            sealer=sealer,
            artifacts=artifacts,
            networks=networks,
            volumes=volumes,
            owner=instance,
        ),
        workshop.catalog,
        workshop.snapshots,
        admission,
        UidRange(config.uid_first, config.uid_count - 1),
        Pool({PoolKey(*kind): count for kind, count in config.pool_targets().items()}),
        workshop.sizes,
        starts_at_once=max(2, os.cpu_count() or 1),
    )
    host = Host(
        config.node_id,
        supervisor,
        workshop.catalog,
        workshop.snapshots,
        admission,
        workshop.sizes,
        artifacts,
        networks,
        volumes,
    )
    return host, supervisor


def take_snapshot(home: Path, image: Image, size: str, progress: Progress, *, network: bool) -> None:
    """Boot, warm and save an image, for `terpd template build --size`; with *network* a second time, with a device."""

    async def take() -> None:
        workshop = await open_workshop(load(flags={"home": home}))
        try:
            await workshop.take(image, size, progress)
            if network:
                await workshop.take(image, size, progress, nic=True)
        finally:
            await workshop.namespaces.aclose()

    asyncio.run(take())


def drop_snapshots(home: Path, template: str, *, force: bool = False) -> None:
    """
    Remove all snapshots of a template that are not pinned, for `terpd template rm`. Waits while one is being prepared.

    Args:
        force: The pinned ones too.

    Raises:
        StateConflict: A machine runs from it. Nothing was removed.
    """
    directory = home / "snapshots" / template
    preparing = f"terp-{_preparing(home)}-{template}-"
    sizes = [lock.name.removeprefix(".").removesuffix(".lock") for lock in directory.glob(".*.lock")]
    with contextlib.ExitStack() as locks:  # the lock files stay: whoever waits for one must not get another
        for size in sizes:
            locks.enter_context(artifact.locked(directory, size))
        memories = {str(memory.stat().st_ino) for memory in directory.glob("*/memory")}
        using = 0
        for name, process in scan("terp-"):
            if name.startswith(preparing) and name.removeprefix(preparing) in sizes:
                process.kill()  # its builder is dead, for we hold the lock
            elif not memories.isdisjoint(_mapped_inodes(process.pid)):
                using += 1
        if using:
            raise StateConflict(f"{using} machines run from template {template}; terminate their sandboxes first")
        for snapshot in directory.glob("[!.]*"):
            artifact.discard(snapshot, snapshot.name.rpartition("-")[0], force=force)


def _preparing(home: Path) -> str:
    """The instance name of templates being prepared: of the directory, since its locks tell who is an orphan."""
    return f"t{instance_name(home)}"


def instance_name(data_dir: Path) -> str:
    """Name a data directory's machines on the host: 8 hexadecimal digits, the same after a restart."""
    return hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:8]


async def _accelerate(home: Path, catalog: Catalog, root: JailRoot, uid: int) -> Acceleration:
    """Probe with the kernel of a template; where none is built yet there is nothing to run, and nothing to try."""
    image = next(iter(catalog.list()), None)
    if image is None:
        return Acceleration("tcg", "no template is built yet, so no kernel to try KVM with")
    initrd = await asyncio.to_thread(ensure_initrd, home, image.kernel, AGENT)
    return await probe(home, Trial(root, LAUNCHER, image.kernel.vmlinux, initrd, uid))


def _mapped_inodes(pid: int) -> set[str]:
    """Inodes of all files a process has mapped (proc(5), /proc/PID/maps, fifth field); none when it is gone."""
    try:
        return {line.split()[4] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    except OSError:
        return set()


def _host_memory_mib() -> int:
    """Four fifths of the host's memory: the rest is the daemon's, the page cache's and the operator's."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5 >> 20
