"""
Template snapshots: a machine booted once, warmed, frozen and saved, from which every sandbox starts.

    boot (memory written through) ─► agent answers ─► warm commands ─► freeze ─► disconnect ─► stop, save ─► manifest

The host is disconnected from the agent when the state is saved, so that each clone sees its own connection open.
A template holds no tenant's data. It is built beside its place and renamed when whole; one builder at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from terpd.egress.base import Namespaces
from terpd.model.errors import TerpError
from terpd.model.sandbox import Size
from terpd.node.disk import overlay
from terpd.node.guest.client import GuestClient
from terpd.node.jail.process import Process
from terpd.node.snapshot.manifest import FORMAT, Manifest, SnapshotMismatch, memory_digest, sha256
from terpd.node.snapshot.warm_up import PreparationFailed, run, start_service
from terpd.node.template import artifact
from terpd.node.template.catalog import Catalog, Image
from terpd.node.template.initrd import ensure_initrd
from terpd.node.template.kernel import Kernel
from terpd.node.template.progress import Progress, step
from terpd.node.vmm.base import BootSpec, Hardware, Placement, Vmm

_MEMORY, _DEVICES, _EMPTY = "memory", "devices", "empty.qcow2"
_BOOT_TIMEOUT_S = 180.0  # 4 s under emulation on an idle host; builds and tests make it a busy one
_LOCK_POLL_S = 0.2  # while another builder, in this process or not, is at work for some seconds
_SETTLE_S = 0.5  # after disconnecting: the guest handles the event and idles; nothing tells the host when


@dataclass(frozen=True, slots=True)
class TemplateSnapshot:
    """A template ready to start machines of one size. All files are read-only and shared by all of them."""

    directory: Path
    image: Image
    hardware: Hardware
    manifest: Manifest

    @property
    def made_of(self) -> Mapping[str, str]:
        return self.manifest.made_of

    @property
    def memory_digest(self) -> str:
        return self.manifest.memory_digest

    @property
    def memory(self) -> Path:
        return self.directory / _MEMORY

    @property
    def devices(self) -> Path:
        return self.directory / _DEVICES

    @property
    def empty_overlay(self) -> Path:
        return self.directory / _EMPTY

    @property
    def disk_backing(self) -> Mapping[str, Path]:
        return {overlay.BASE_NAME: self.directory / overlay.BASE_NAME, overlay.ROOT_NAME: self.image.root}


class TemplateSnapshots:
    """
    Finds template snapshots, and makes those that are missing.

    Args:
        home: TERP_HOME; snapshots live in `snapshots/<template>/<variant>-<digest of all that went in>`.
        vmm: Of an instance of its own, so that no daemon takes a template being prepared for a lost machine.
        agent: The agent's binary.
        uid: The monitor's uid while a template boots.
        namespaces: Make the network that one with a network device boots in, where nobody answers.
    """

    def __init__(self, home: Path, *, vmm: Vmm, agent: Path, uid: int, namespaces: Namespaces) -> None:
        self._home = home
        self._namespaces = namespaces
        self._vmm = vmm
        self._agent = agent
        self._uid = uid
        self._initrds: dict[str, Path] = {}  # by kernel digest; each is named by its own

    @property
    def home(self) -> Path:
        return self._home

    def find(self, image: Image, size: Size, *, nic: bool = False) -> TemplateSnapshot | None:
        directory, made_of = self._place(image, hardware := _hardware(size, nic=nic), variant(size.name, nic=nic))
        try:
            manifest = Manifest.read(directory)
            manifest.check(directory, made_of)
        except SnapshotMismatch:
            return None
        return TemplateSnapshot(directory, image, hardware, manifest)

    def open_exact(self, template: str, name: str) -> TemplateSnapshot:
        """
        Return the snapshot in the directory *name*, which need not be of the template's current build.

        Its image, kernel and initramfs are what they were; this host and this release must still be what it was saved
        on. That it holds what it held then, the caller learns from `memory_digest`.

        Raises:
            SnapshotMismatch: It is gone or damaged, or was made with another QEMU, processor, acceleration or release;
                says which.
        """
        directory = self._home / "snapshots" / template / name
        manifest = Manifest.read(directory)
        nic, slot = ("nic" in manifest.made_of, "slot" in manifest.made_of)
        manifest.check(directory, {**manifest.made_of, **self._here(nic=nic, slot=slot)})
        try:
            digest = manifest.made_of["image"]
            hardware = Hardware(int(manifest.made_of["vcpus"]), int(manifest.made_of["memory_mib"]), nic, slot)
        except (KeyError, ValueError) as error:
            raise SnapshotMismatch(f"{directory}: its manifest does not say what it was made of: {error}") from error
        image = Catalog(self._home).build(template, digest)
        if image is None:
            raise SnapshotMismatch(
                f"{directory}: the image {digest} of {template}, or its kernel, is not here any more"
            )
        return TemplateSnapshot(directory, image, hardware, manifest)

    async def ensure(self, image: Image, size: Size, progress: Progress, *, nic: bool = False) -> TemplateSnapshot:
        """
        Return the snapshot, preparing it first when there is none: one boot, 5 to 20 s under emulation.

        Raises:
            PreparationFailed: Nothing is left behind but the console log named in the text.
        """
        hardware, name = _hardware(size, nic=nic), variant(size.name, nic=nic)
        directory, made_of = self._place(image, hardware, name)
        while not (found := self.find(image, size, nic=nic)):
            with contextlib.ExitStack() as held:
                lock = artifact.locked(directory.parent, name, wait=False)
                try:
                    await asyncio.to_thread(held.enter_context, lock)
                except BlockingIOError:
                    # No thread waits for the lock: a few would take all there are, and who holds it needs some.
                    await asyncio.sleep(_LOCK_POLL_S)
                    continue
                made = self.find(image, size, nic=nic)
                return made or await self._make(directory, image, hardware, name, made_of, progress)
        return found

    async def _make(
        self,
        directory: Path,
        image: Image,
        hardware: Hardware,
        name: str,
        made_of: Mapping[str, str],
        progress: Progress,
    ) -> TemplateSnapshot:
        """Prepare it, put it in its place and remove what it replaces. The lock is held."""
        try:
            with artifact.building(directory.parent, name) as temporary:
                await self._prepare(temporary, image, hardware, name, made_of, progress)
                await asyncio.to_thread(artifact.commit, temporary, directory)
            for other in directory.parent.glob(f"{name}-*"):
                # Not of a variant whose name begins alike, nor what a server's saved states are the difference to.
                if other != directory and other.name.rpartition("-")[0] == name:
                    await asyncio.to_thread(artifact.discard, other, name)
            manifest = Manifest.read(directory)
        except (OSError, subprocess.SubprocessError, TerpError, SnapshotMismatch) as error:
            raise PreparationFailed(f"Template {image.template}, size {name}: {error}") from error
        return TemplateSnapshot(directory, image, hardware, manifest)

    def _orphans(self, machine: str) -> list[Process]:
        return [process for name, process in self._vmm.running() if name == machine]

    def _place(self, image: Image, hardware: Hardware, variant_name: str) -> tuple[Path, Mapping[str, str]]:
        made_of = {
            "image": image.digest,
            "kernel": image.kernel.digest,
            "initramfs": self._initrd(image.kernel).name,
            "vcpus": str(hardware.vcpus),
            "memory_mib": str(hardware.memory_mib),
            # Nothing is said of a device that is not there: so were all made before there was one.
            **({"nic": "1"} if hardware.nic else {}),
            **({"slot": "1"} if hardware.slot else {}),
            **self._here(nic=hardware.nic, slot=hardware.slot),
        }
        name = f"{variant_name}-{artifact.digest_of(made_of)}"
        return self._home / "snapshots" / image.template / name, made_of

    def _here(self, *, nic: bool, slot: bool) -> Mapping[str, str]:
        """What a snapshot needs of this host and this release."""
        return {"format": str(FORMAT), **self._vmm.identity(nic=nic, slot=slot)}

    def _initrd(self, kernel: Kernel) -> Path:
        if kernel.digest not in self._initrds:
            self._initrds[kernel.digest] = ensure_initrd(self._home, kernel, self._agent)
        return self._initrds[kernel.digest]

    async def _prepare(
        self,
        directory: Path,
        image: Image,
        hardware: Hardware,
        variant_name: str,
        made_of: Mapping[str, str],
        progress: Progress,
    ) -> None:
        virtual_bytes = image.disk_bytes
        base, memory = directory / overlay.BASE_NAME, directory / _MEMORY
        await asyncio.to_thread(overlay.create_on_root, base, virtual_bytes)
        await asyncio.to_thread(overlay.create_on_base, directory / _EMPTY, virtual_bytes)
        with memory.open("xb") as file:
            file.truncate(hardware.memory_mib << 20)
        for path in (base, memory):
            _give(path, self._uid)
        name = f"{image.template}-{variant_name}"
        for orphan in self._orphans(name):  # of a builder that died: we hold its lock
            orphan.kill()
            await orphan.wait()
        console = self._home / "snapshots" / f"{name}.console.log"
        console.unlink(missing_ok=True)
        spec = BootSpec(
            placement=Placement(name, directory, self._uid, None),
            hardware=hardware,
            kernel=image.kernel.vmlinux,
            initrd=self._initrd(image.kernel),
            memory_file=memory,
            devices_file=directory / _DEVICES,
            disk=base,
            disk_backing={overlay.ROOT_NAME: image.root},
            console_log=console,
        )
        try:
            if hardware.nic:
                # A gateway is of no use before there is a sandbox. But what a TAP can do must be as it will be.
                sockets = await self._namespaces.create()
                try:
                    await self._boot_and_save(replace(spec, tap=sockets.tap), image, progress)
                finally:
                    await self._namespaces.close(sockets)
            else:
                await self._boot_and_save(spec, image, progress)
        except Exception as error:
            raise PreparationFailed(
                f"Template {image.template}, size {variant_name}: {error}; console: {console}"
            ) from error
        console.unlink(missing_ok=True)
        with step(progress, "seal the snapshot"):
            await asyncio.to_thread(self._seal, directory, made_of, virtual_bytes)

    async def _boot_and_save(self, spec: BootSpec, image: Image, progress: Progress) -> None:
        vm = await self._vmm.boot(spec)
        try:
            with step(progress, "boot the template"):
                guest = await GuestClient.connect(vm.agent_socket, fresh=True, timeout_s=_BOOT_TIMEOUT_S)
            try:
                for name, command in image.services.items():
                    with step(progress, f"start the service {name}"):
                        await start_service(guest, name, command)
                for command in image.warm:
                    with step(progress, f"warm up: {command[:60]}"):
                        await run(guest, command)
                await guest.freeze(drop_page_cache=False)  # clones start with the template's warm one
            finally:
                await guest.close()
            await asyncio.sleep(_SETTLE_S)
            with step(progress, "save memory and devices"):
                await vm.save()
        finally:
            await vm.kill()

    @staticmethod
    def _seal(directory: Path, made_of: Mapping[str, str], virtual_bytes: int) -> None:
        # Holes cost nothing, in the page cache neither.
        subprocess.run(["fallocate", "--dig-holes", directory / _MEMORY], check=True, capture_output=True, timeout=300)
        names = (_MEMORY, _DEVICES, overlay.BASE_NAME, _EMPTY)
        for leftover in directory.iterdir():
            if leftover.name not in names:
                leftover.unlink()
        for name in names:
            _give(directory / name, 0)
            (directory / name).chmod(0o444)
        Manifest(
            made_of=made_of,
            sizes={name: (directory / name).stat().st_size for name in names},
            devices_sha256=sha256(directory / _DEVICES),
            memory_digest=memory_digest(directory / _MEMORY),
            virtual_disk_bytes=virtual_bytes,
        ).write(directory)


def variant(size: str, *, nic: bool) -> str:
    """Of a template's snapshots: names directories, locks and machines. No size has a capital letter in its name."""
    return f"{size}-NET" if nic else size


def _hardware(size: Size, *, nic: bool) -> Hardware:
    return Hardware(size.vcpus, size.memory_mib, nic)


def _give(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)
