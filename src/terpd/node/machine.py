"""
One machine's driver: from its launch to the removal of its last file.

    start ──► claimed (awake) ──────────────► stop ──► gone
      │            │  ▲                         ▲
      │            ▼  │ reconnect               │
      │        guest lost (monitor alive)       │
      └── adopt ◄── daemon restarted       monitor exits by itself ──► gone

The record is written before the monitor is launched and after, so that whatever a dead daemon left can be named.
A guest that breaks the wire is disconnected and may try again; its machine runs on, since the lease is its owner's.
One that nobody owns yet is ended instead: another is started in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from terpd.model.errors import GuestFault, TerpError, Unavailable
from terpd.model.ids import SandboxId
from terpd.node.disk import overlay
from terpd.node.guest.client import GuestClient, WakeUp
from terpd.node.jail.cgroup import MONITOR_THREADS, OVERHEAD_BYTES, Cgroup, CgroupTree, Limits
from terpd.node.record import MachineRecord
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm.base import Placement, RestoreSpec, RunningVm, Vmm, VmmFailed

log = structlog.get_logger()

_T = TypeVar("_T")

_WAKE_TIMEOUT_S = 25.0  # 30-40 ms under emulation on an idle host; below the 30 s after which clients hang up
_ADOPT_TIMEOUT_S = 5.0  # for a guest's first word to a new daemon, whose start waits for it; later ones may follow
_STOP_TIMEOUT_S = 30.0  # SIGKILL takes some milliseconds unless the process hangs in the kernel
_RECONNECT_S = (0.1, 0.5, 2.0, 5.0)  # between attempts to reach a guest that broke off; the last repeats
_STABLE_S = 10.0  # a session that lasted this long starts the attempts anew


@dataclass(frozen=True, slots=True)
class Facilities:
    """What machines are made with on this host."""

    vmm: Vmm
    cgroups: CgroupTree
    machines: Path  # one directory a machine

    def directory(self, machine_id: str) -> Path:
        return self.machines / machine_id

    def cgroup(self, machine_id: str, vcpus: int, memory_mib: int) -> Cgroup:
        memory_bytes = (memory_mib << 20) + OVERHEAD_BYTES
        limits = Limits(cpu_cores=float(vcpus), memory_bytes=memory_bytes, pids=MONITOR_THREADS)
        return self.cgroups.create(machine_id, limits)

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


class Machine:
    """
    A machine that runs on this node and belongs to this daemon.

    Args:
        on_exit: Called once when the monitor has ended, by itself or by `stop`, and its remains were removed.
    """

    def __init__(
        self, record: MachineRecord, facilities: Facilities, vm: RunningVm, on_exit: Callable[[Machine], None]
    ) -> None:
        self.record = record
        self._facilities = facilities
        self._vm = vm
        self._on_exit = on_exit
        self._guest: GuestClient | None = None
        self._woken = asyncio.Event()
        self.stopping = False
        self._driver = asyncio.create_task(self._drive(), name=f"machine {record.machine_id}")

    @property
    def id(self) -> str:
        return self.record.machine_id

    @property
    def answers(self) -> bool:
        """Whether its guest can be reached, as far as is known."""
        return self._guest is not None and not self._guest.lost.done() and not self.stopping

    @property
    def guest(self) -> GuestClient:
        """Raises GuestFault while the guest cannot be reached."""
        if self._guest is None or self._guest.lost.done():
            raise GuestFault("The sandbox's guest agent does not answer; terminate the sandbox if this goes on")
        return self._guest

    @classmethod
    async def start(
        cls,
        record: MachineRecord,
        snapshot: TemplateSnapshot,
        facilities: Facilities,
        *,
        on_exit: Callable[[Machine], None],
    ) -> Machine:
        """
        Start a machine from its template's snapshot. Its guest waits, frozen, for `wake`.

        Raises:
            GuestFault: The monitor did not start. Nothing is left behind.
        """
        directory = facilities.directory(record.machine_id)

        def prepare() -> Cgroup:
            directory.mkdir(mode=0o711)  # the monitor's uid passes through to its own disk
            record.write(directory)
            overlay.copy(snapshot.empty_overlay, directory / "disk.qcow2", uid=record.uid)
            return facilities.cgroup(record.machine_id, snapshot.hardware.vcpus, record.memory_mib)

        vm: RunningVm | None = None
        try:
            cgroup = await _finished(asyncio.to_thread(prepare))
            vm = await facilities.vmm.restore(
                RestoreSpec(
                    placement=Placement(record.machine_id, directory, record.uid, cgroup),
                    hardware=snapshot.hardware,
                    memory_file=snapshot.memory,
                    devices_file=snapshot.devices,
                    disk=directory / "disk.qcow2",
                    disk_backing=snapshot.disk_backing,
                )
            )
            record = record.with_process(vm.process)
            record.write(directory)
        except BaseException as error:
            await _finished(_undo(error, vm, facilities, record.machine_id))
            if isinstance(error, (VmmFailed, OSError)):
                raise GuestFault("The machine did not start; try again", context={"cause": str(error)}) from error
            raise
        return cls(record, facilities, vm, on_exit)

    @classmethod
    async def adopt(cls, record: MachineRecord, facilities: Facilities, on_exit: Callable[[Machine], None]) -> Machine:
        """
        Take over a machine that outlived the daemon. A guest that is silent now may still answer later.

        Raises:
            VmmFailed: The monitor is gone or does not answer, or the guest was never woken: not worth keeping.
        """
        process = record.process
        if process is None or not process.alive():
            raise VmmFailed("its monitor is gone")
        directory = facilities.directory(record.machine_id)
        vm = await facilities.vmm.adopt(Placement(record.machine_id, directory, record.uid, None), process)
        guest: GuestClient | None = None
        try:
            guest = await GuestClient.connect(vm.agent_socket, fresh=False, timeout_s=_ADOPT_TIMEOUT_S)
            if guest.greeting.state != "awake":
                raise VmmFailed("its guest was never woken")
        except GuestFault as error:
            log.warning("adopting a machine whose guest is silent", machine=record.machine_id, why=error.detail)
        except BaseException:
            if guest is not None:
                await guest.close()
            await vm.close()
            raise
        machine = cls(record, facilities, vm, on_exit)
        machine._guest = guest
        machine._woken.set()
        return machine

    async def wake(self, *, hostname: str, env: Mapping[str, str]) -> None:
        """
        Make the guest its own: entropy, clock, names, environment; then its user processes run.

        Raises:
            GuestFault, DeadlineExceeded: The guest did not confirm and must not be handed out.
        """
        wake = WakeUp(secrets.token_bytes(64), time.time_ns(), hostname, secrets.token_bytes(16), env)
        if self._guest is None:
            self._guest = await GuestClient.connect_and_wake(
                self._vm.agent_socket, wake, fresh=True, timeout_s=_WAKE_TIMEOUT_S
            )
            self._woken.set()
        else:
            await self.guest.wake(wake, timeout_s=_WAKE_TIMEOUT_S)

    def claim(self, sandbox_id: SandboxId) -> None:
        """
        Give the machine to a sandbox: one rename decides whose it is, also after a crash.

        Raises:
            Unavailable: It could not be recorded (the disk is full, or the machine has just ended): it is nobody's.
        """
        claimed = self.record.claimed_by(sandbox_id)
        try:
            claimed.write(self._facilities.directory(self.id))
        except OSError as error:
            raise Unavailable("The machine could not be claimed; try again", context={"cause": str(error)}) from error
        self.record = claimed

    async def stop(self) -> None:
        """
        End the machine and remove all that was its own. Idempotent; concurrent callers all wait for the end.

        Raises:
            Unavailable: It has not ended after 30 s; it still will. `on_exit` is called then.
        """
        self.stopping = True
        self._vm.process.kill()
        done, _ = await asyncio.wait([self._driver], timeout=_STOP_TIMEOUT_S)
        if not done:
            raise Unavailable("The machine has not ended yet; try again", context={"machine": self.id})

    async def release(self) -> None:
        """Let go of a machine that runs on without this daemon."""
        self._driver.cancel()
        await asyncio.wait([self._driver])
        if self._guest is not None:
            await self._guest.close()
        await self._vm.close()

    async def _drive(self) -> None:
        keeping = asyncio.create_task(self._keep_connected(), name=f"guest of {self.id}")
        try:
            await self._vm.process.wait()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
        await self._bury()
        self._on_exit(self)

    async def _bury(self) -> None:
        if self._guest is not None:
            await self._guest.close()
        try:
            await self._vm.kill()
            await asyncio.to_thread(self._facilities.remove, self.id)
        except Exception:  # whatever it is, who waits for the end must not wait for ever; the next start tries again
            log.exception("machine remains", machine=self.id)

    async def _keep_connected(self) -> None:
        await self._woken.wait()
        attempt = 0
        while True:
            began = time.monotonic()
            if self._guest is not None:
                await asyncio.wait([self._guest.lost])
            if self.record.sandbox_id is None:
                log.warning("a warm machine lost its guest", machine=self.id)
                self._vm.process.kill()
                return
            if time.monotonic() - began > _STABLE_S:
                attempt = 0
            await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
            attempt += 1
            with contextlib.suppress(TerpError, OSError):
                self._guest = await GuestClient.connect(self._vm.agent_socket, fresh=False, timeout_s=_WAKE_TIMEOUT_S)
                log.info("guest reconnected", machine=self.id, attempt=attempt)


async def _finished(work: Coroutine[Any, Any, _T]) -> _T:
    """Await *work* to its end, also if cancelled meanwhile: a thread under way must not outlive what undoes it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _undo(error: BaseException, vm: RunningVm | None, facilities: Facilities, machine_id: str) -> None:
    """Leave nothing of a start that ended with *error*; if that fails too, the next start of the daemon tries again."""
    try:
        if vm is not None:
            await vm.kill()
        await asyncio.to_thread(facilities.remove, machine_id)
    except Exception as second:  # noqa: BLE001  must not replace the first
        error.add_note(f"undoing it failed as well: {second}")
        log.warning("machine remains", machine=machine_id, why=str(second))
