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
from dataclasses import dataclass
from pathlib import Path

from terpd.model.errors import TerpError
from terpd.model.guest import ExecExited, ExecRequest
from terpd.model.ids import new_exec_id
from terpd.model.sandbox import Size
from terpd.node.disk import overlay
from terpd.node.guest.client import GuestClient
from terpd.node.jail.process import Process
from terpd.node.snapshot.manifest import FORMAT, Manifest, SnapshotMismatch, memory_digest, sha256
from terpd.node.template import artifact
from terpd.node.template.catalog import Catalog, Image
from terpd.node.template.initrd import ensure_initrd
from terpd.node.template.kernel import Kernel
from terpd.node.template.progress import Progress, step
from terpd.node.vmm.base import BootSpec, Hardware, Placement, Vmm

_MEMORY, _DEVICES, _EMPTY = "memory", "devices", "empty.qcow2"
_BOOT_TIMEOUT_S = 180.0  # 4 s under emulation on an idle host; builds and tests make it a busy one
_WARM_TIMEOUT_S = 180.0
_LOCK_POLL_S = 0.2  # while another builder, in this process or not, is at work for some seconds
_SETTLE_S = 0.5  # after disconnecting: the guest handles the event and idles; nothing tells the host when


class PreparationFailed(Exception):
    """The template did not boot or warm up; the text says at which step."""


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
        home: TERP_HOME; snapshots live in `snapshots/<template>/<size>-<digest of all that went in>`.
        vmm: Of an instance of its own, so that no daemon takes a template being prepared for a lost machine.
        agent: The agent's binary.
        uid: The monitor's uid while a template boots.
    """

    def __init__(self, home: Path, *, vmm: Vmm, agent: Path, uid: int) -> None:
        self._home = home
        self._vmm = vmm
        self._agent = agent
        self._uid = uid
        self._initrds: dict[str, Path] = {}  # by kernel digest; each is named by its own

    @property
    def home(self) -> Path:
        return self._home

    def find(self, image: Image, size: Size) -> TemplateSnapshot | None:
        directory, made_of = self._place(image, size)
        try:
            manifest = Manifest.read(directory)
            manifest.check(directory, made_of)
        except SnapshotMismatch:
            return None
        return TemplateSnapshot(directory, image, Hardware(size.vcpus, size.memory_mib), manifest)

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
        manifest.check(directory, {**manifest.made_of, **self._here})
        try:
            digest = manifest.made_of["image"]
            hardware = Hardware(int(manifest.made_of["vcpus"]), int(manifest.made_of["memory_mib"]))
        except (KeyError, ValueError) as error:
            raise SnapshotMismatch(f"{directory}: its manifest does not say what it was made of: {error}") from error
        image = Catalog(self._home).build(template, digest)
        if image is None:
            raise SnapshotMismatch(
                f"{directory}: the image {digest} of {template}, or its kernel, is not here any more"
            )
        return TemplateSnapshot(directory, image, hardware, manifest)

    async def ensure(self, image: Image, size: Size, progress: Progress) -> TemplateSnapshot:
        """
        Return the snapshot, preparing it first when there is none: one boot, 5 to 20 s under emulation.

        Raises:
            PreparationFailed: Nothing is left behind but the console log named in the text.
        """
        directory, made_of = self._place(image, size)
        while not (found := self.find(image, size)):
            with contextlib.ExitStack() as held:
                lock = artifact.locked(directory.parent, size.name, wait=False)
                try:
                    await asyncio.to_thread(held.enter_context, lock)
                except BlockingIOError:
                    # No thread waits for the lock: a few would take all there are, and who holds it needs some.
                    await asyncio.sleep(_LOCK_POLL_S)
                    continue
                return self.find(image, size) or await self._make(directory, image, size, made_of, progress)
        return found

    async def _make(
        self, directory: Path, image: Image, size: Size, made_of: Mapping[str, str], progress: Progress
    ) -> TemplateSnapshot:
        """Prepare it, put it in its place and remove what it replaces. The lock is held."""
        try:
            with artifact.building(directory.parent, size.name) as temporary:
                await self._prepare(temporary, image, size, made_of, progress)
                await asyncio.to_thread(artifact.commit, temporary, directory)
            for other in directory.parent.glob(f"{size.name}-*"):
                # Not of a size whose name begins alike, nor what a server's saved states are the difference to.
                if other != directory and other.name.rpartition("-")[0] == size.name:
                    await asyncio.to_thread(artifact.discard, other, size.name)
            manifest = Manifest.read(directory)
        except (OSError, subprocess.SubprocessError, TerpError, SnapshotMismatch) as error:
            raise PreparationFailed(f"Template {image.template}, size {size.name}: {error}") from error
        return TemplateSnapshot(directory, image, Hardware(size.vcpus, size.memory_mib), manifest)

    def _orphans(self, template: str, size: str) -> list[Process]:
        return [process for name, process in self._vmm.running() if name == f"{template}-{size}"]

    def _place(self, image: Image, size: Size) -> tuple[Path, Mapping[str, str]]:
        made_of = {
            "image": image.digest,
            "kernel": image.kernel.digest,
            "initramfs": self._initrd(image.kernel).name,
            "vcpus": str(size.vcpus),
            "memory_mib": str(size.memory_mib),
            **self._here,
        }
        name = f"{size.name}-{artifact.digest_of(made_of)}"
        return self._home / "snapshots" / image.template / name, made_of

    @property
    def _here(self) -> Mapping[str, str]:
        """What a snapshot needs of this host and this release."""
        return {"format": str(FORMAT), **self._vmm.identity}

    def _initrd(self, kernel: Kernel) -> Path:
        if kernel.digest not in self._initrds:
            self._initrds[kernel.digest] = ensure_initrd(self._home, kernel, self._agent)
        return self._initrds[kernel.digest]

    async def _prepare(
        self, directory: Path, image: Image, size: Size, made_of: Mapping[str, str], progress: Progress
    ) -> None:
        hardware = Hardware(size.vcpus, size.memory_mib)
        virtual_bytes = image.disk_bytes
        base, memory = directory / overlay.BASE_NAME, directory / _MEMORY
        await asyncio.to_thread(overlay.create_on_root, base, virtual_bytes)
        await asyncio.to_thread(overlay.create_on_base, directory / _EMPTY, virtual_bytes)
        with memory.open("xb") as file:
            file.truncate(hardware.memory_mib << 20)
        for path in (base, memory):
            _give(path, self._uid)
        name = f"{image.template}-{size.name}"
        for orphan in self._orphans(image.template, size.name):  # of a builder that died: we hold its lock
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
            await self._boot_and_save(spec, image, progress)
        except Exception as error:
            raise PreparationFailed(
                f"Template {image.template}, size {size.name}: {error}; console: {console}"
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
                for command in image.warm:
                    with step(progress, f"warm up: {command[:60]}"):
                        await _warm(guest, command)
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


async def _warm(guest: GuestClient, command: str) -> None:
    request = ExecRequest(exec_id=new_exec_id(), command=command, timeout_s=_WARM_TIMEOUT_S)
    async for event in guest.exec(request):
        if isinstance(event, ExecExited) and event.exit_code != 0:
            raise PreparationFailed(f"`{command}` ended with {event.exit_code}")


def _give(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)
