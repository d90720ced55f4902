"""
QEMU microvm machines: how they are booted, restored and found again.

What makes a restore fast:

    sockets bound and connected, QMP commands written ──► launch ──► QEMU reads them as soon as it can
    ──► device state loads from an inherited descriptor ──► the guest runs (event RESUME)

Memory is the template's file mapped privately (share=off) from a read-only descriptor: clones share what they do
not touch, and no guest can alter the template. Device state is what `xen-save-devices-state` writes: devices only.
Pages that differ from the template's are written by others between launch and load, which costs one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from terpd.node.jail.launch import Bind, ErrorText, JailSpec, LaunchFailed, launch
from terpd.node.jail.process import Process, scan
from terpd.node.jail.root import JailRoot
from terpd.node.vmm import sockets
from terpd.node.vmm.base import BootSpec, Hardware, Placement, RestoreSpec, VmmFailed
from terpd.node.vmm.definition import MOUNT, Boot, command_line, kernel_arguments
from terpd.node.vmm.qmp import Qmp
from terpd.node.vmm.running import STATE_SET, VOLUME_SET, QemuVm, layer_files, layer_set, volume_file
from terpd.node.vmm.secret_files import SecretFiles

_CONSOLE_SET = 2
_KVM_SET = 3
_LOAD = {"uri": f"file:/dev/fdset/{STATE_SET}"}
_START_TIMEOUT_S = 30.0  # a restore takes 20-40 ms; a host that swaps or starves may take very much longer
_QMP_SOCKET = "qmp.sock"
_AGENT_SOCKET = "agent.sock"


class Qemu:
    """
    The VMM port for QEMU.

    Args:
        instance: Name of this daemon's data directory, part of every machine's name on the host, so that two daemons
            on one host never reap each other's machines. 1 to 16 of [a-z0-9].
        accel: "kvm" or "tcg", as probed.
        tsc_khz: Of this host (`vmm.tsc`).
    """

    def __init__(self, *, root: JailRoot, launcher: Path, accel: str, tsc_khz: int, instance: str) -> None:
        self._root = root
        self._launcher = launcher
        self._accel = accel
        self._tsc_khz = tsc_khz
        self._prefix = f"terp-{instance}-"
        self._secrets = SecretFiles(instance)

    def identity(self, *, nic: bool, slot: bool = True) -> Mapping[str, str]:
        sample = command_line(
            "",
            Hardware(1, 1, nic, slot),
            accel=self._accel,
            qmp_fd=0,
            agent_fd=0,
            descriptors=[],
            boot=None,
            tap_fd=0 if nic else None,
        )
        return {
            "qemu": self._root.digest,
            "accelerator": self._accel,
            "machine": hashlib.sha256("\0".join([*sample, kernel_arguments(self._accel, 0)]).encode()).hexdigest()[:16],
            "cpu": _cpu_model(),
            "tsc_mhz": str(round(self._tsc_khz / 1000)),
        }

    async def boot(self, spec: BootSpec) -> QemuVm:
        boot = Boot(
            kernel=f"{MOUNT}/kernel",
            initrd=f"{MOUNT}/initrd",
            cmdline=kernel_arguments(self._accel, self._tsc_khz),
            console_set=_CONSOLE_SET,
        )
        binds = [
            Bind(spec.memory_file, f"{MOUNT}/memory", writable=True),
            Bind(spec.kernel, f"{MOUNT}/kernel"),
            Bind(spec.initrd, f"{MOUNT}/initrd"),
            Bind(spec.disk, f"{MOUNT}/disk.qcow2", writable=True),
            *(Bind(path, f"{MOUNT}/{name}") for name, path in spec.disk_backing.items()),
        ]
        with contextlib.ExitStack() as held:
            state = _open(held, spec.devices_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            console = _open(held, spec.console_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            descriptors = [(STATE_SET, state), (_CONSOLE_SET, console)]
            return await self._start(spec.placement, spec.hardware, binds, descriptors, tap=spec.tap, boot=boot)

    async def restore(self, spec: RestoreSpec) -> QemuVm:
        placement = spec.placement
        try:
            with contextlib.ExitStack() as held, contextlib.ExitStack() as secrets:
                volumes = [spec.volume] if spec.volume else []
                passphrases = [layer.passphrase for layer in (*spec.layers, *volumes)]
                keys = secrets.enter_context(self._secrets.shown(placement.name, placement.uid, passphrases))
                binds = [
                    Bind(spec.memory_file, f"{MOUNT}/memory"),
                    *(Bind(path, f"{MOUNT}/{name}") for name, path in spec.disk_backing.items()),
                    *(Bind(path, f"{MOUNT}/{path.name}") for path in keys),
                ]
                descriptors = [(STATE_SET, _state(held, spec.devices))]
                for number, layer in enumerate(spec.layers):
                    fds = held.enter_context(layer_files(layer.path, frozen=number < len(spec.layers) - 1))
                    descriptors += [(layer_set(number), fd) for fd in fds]

                descriptors += [(VOLUME_SET, held.enter_context(volume_file(each.path))) for each in volumes]

                async def inject(process: Process) -> None:
                    secrets.close()  # QEMU has read them, and this may take its time
                    if spec.inject is not None:
                        await spec.inject(process)

                return await self._start(
                    placement,
                    spec.hardware,
                    binds,
                    descriptors,
                    tap=spec.tap,
                    layers=len(spec.layers),
                    volume=spec.volume is not None,
                    inject=inject if spec.inject else None,
                )
        except OSError as error:
            raise VmmFailed(f"{placement.name}: {error}") from error

    async def adopt(self, placement: Placement, process: Process) -> QemuVm:
        try:
            qmp = await Qmp.connect(sockets.connect(placement.directory / _QMP_SOCKET))
        except OSError as error:
            raise VmmFailed(f"{placement.name}: QMP socket: {error}") from error
        vm = QemuVm(process, placement.directory / _AGENT_SOCKET, qmp)
        try:
            await vm.end_jobs()
        except BaseException:
            await qmp.close()
            raise
        return vm

    async def sweep(self) -> None:
        await asyncio.to_thread(self._secrets.sweep)

    def running(self) -> Sequence[tuple[str, Process]]:
        return [(name.removeprefix(self._prefix), process) for name, process in scan(self._prefix)]

    async def _start(
        self,
        placement: Placement,
        hardware: Hardware,
        binds: Sequence[Bind],
        descriptors: list[tuple[int, int]],
        *,
        tap: int | None,
        boot: Boot | None = None,
        layers: int = 0,
        volume: bool = False,
        inject: Callable[[Process], Awaitable[None]] | None = None,
    ) -> QemuVm:
        with ErrorText() as errors, contextlib.ExitStack() as stack:
            accel = self._accel
            if accel == "kvm":
                descriptors.append((_KVM_SET, _open(stack, Path("/dev/kvm"), os.O_RDWR)))
                accel = f"kvm,device=/dev/fdset/{_KVM_SET}"
            qmp_listener = stack.enter_context(sockets.listen(placement.directory / _QMP_SOCKET))
            agent_listener = stack.enter_context(sockets.listen(placement.directory / _AGENT_SOCKET))
            qmp = await Qmp.connect(sockets.connect(placement.directory / _QMP_SOCKET))
            # QEMU finds the command as soon as it looks, unless pages have to be written before.
            load = qmp.execute_later("migrate-incoming", _LOAD) if boot is None and inject is None else None
            spec = JailSpec(
                name=placement.name,
                root=self._root.path,
                argv=command_line(
                    self._prefix + placement.name,
                    hardware,
                    accel=accel,
                    qmp_fd=qmp_listener.fileno(),
                    agent_fd=agent_listener.fileno(),
                    descriptors=descriptors,
                    boot=boot,
                    layers=layers,
                    volume=volume,
                    tap_fd=tap,
                ),
                binds=binds,
                fds=[
                    qmp_listener.fileno(),
                    agent_listener.fileno(),
                    *([] if tap is None else [tap]),
                    *(fd for _, fd in descriptors),
                ],
                uid=placement.uid,
                gid=placement.uid,
                cgroup=placement.cgroup,
                stderr=errors.fd,
            )
            process: Process | None = None
            try:
                process = Process.of(await launch(spec, launcher=self._launcher))
                # From here QEMU alone holds the listeners, so its death closes our connection.
                stack.close()
                if load is None:
                    await qmp.ready(timeout_s=_START_TIMEOUT_S)
                if inject is not None:
                    await inject(process)
                    load = qmp.execute_later("migrate-incoming", _LOAD)
                if load is not None:
                    await asyncio.wait_for(load, _START_TIMEOUT_S)
                    await qmp.event("RESUME", timeout_s=_START_TIMEOUT_S)
            except BaseException as error:
                await qmp.close()
                if process is not None:
                    process.kill()
                    await process.wait()
                if isinstance(error, (LaunchFailed, OSError, VmmFailed)):
                    raise VmmFailed(f"{placement.name}: {error}; QEMU said: {errors.text() or 'nothing'}") from error
                raise
        return QemuVm(process, placement.directory / _AGENT_SOCKET, qmp)


def _open(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, fd)
    return fd


def _state(stack: contextlib.ExitStack, devices: Path | bytes) -> int:
    """A descriptor to read the device state from; QEMU refuses one that can be written as well."""
    if isinstance(devices, Path):
        return _open(stack, devices, os.O_RDONLY)
    with os.fdopen(os.memfd_create("devices", os.MFD_CLOEXEC), "wb") as file:
        file.write(devices)
        file.flush()
        return _open(stack, Path(f"/proc/self/fd/{file.fileno()}"), os.O_RDONLY)


def _cpu_model() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
