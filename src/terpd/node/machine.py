"""
One machine's driver: from its launch to the removal of its last file.

    start ──► claimed (awake) ◄──── go on ──── held ──► stop ──► gone
      │            │  ▲  │                      ▲          ▲
      │            ▼  │  └──── capture ─────────┘          │
      │        guest lost (monitor alive; node/link.py)    │
      └── adopt ◄── daemon restarted             monitor exits by itself ──► gone

The record is written before the monitor is launched and after, so that whatever a dead daemon left can be named.
A guest that breaks the wire is disconnected and may try again; its machine runs on, since the lease is its owner's.
One that nobody owns yet is ended instead: another is started in its place.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from terpd.model.errors import GuestFault, StateConflict, StorageFull, TerpError, Unavailable
from terpd.model.ids import SandboxId, VolumeId, new_layer_id
from terpd.model.network import NetworkSpec
from terpd.node.facilities import Facilities
from terpd.node.finished import finished
from terpd.node.gate import Gate
from terpd.node.guest.client import GuestClient, WakeUp
from terpd.node.jail.cgroup import Cgroup, Usage
from terpd.node.jail.process import Process
from terpd.node.link import WAKE_TIMEOUT_S, Link, going_on
from terpd.node.network.nic import Nic
from terpd.node.record import DiskLayer, MachineRecord
from terpd.node.snapshot.sealer import SEALING_FAULTS
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm.base import Layer, Placement, RestoreSpec, RunningVm, VmmFailed

log = structlog.get_logger()

_ADOPT_TIMEOUT_S = 5.0  # for a guest's first word to a new daemon, whose start waits for it; later ones may follow
_STOP_TIMEOUT_S = 30.0  # SIGKILL takes some milliseconds unless the process hangs in the kernel
_HELD = (
    "The sandbox is paused; resume it first. Commands that ran go on then, and can be attached to by their id and"
    " the offset of the output that you have"
)


def new_secret() -> bytes:
    """What opens one layer of a disk."""
    return secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Start:
    """
    What a machine is started from: a template's snapshot and, on top of it, perhaps a saved state.

    Attributes:
        layers: The state's, lowest first.
        volume: The disk of the volume that the state had at /persist.
        inject: Brings the state's memory into the monitor.
    """

    template: TemplateSnapshot
    devices: Path | bytes
    layers: Sequence[Layer] = ()
    inject: Callable[[Process], Awaitable[None]] | None = None
    volume: Layer | None = None


class Machine:
    """
    A machine that runs on this node and belongs to this daemon.

    Args:
        on_exit: Called once when the monitor has ended, by itself or by `stop`, and its remains were removed.

    Attributes:
        held: It stands still until `go_on`.
        secrets: Of its layers, while no sandbox owns it under whose key they could be sealed.
        turning: Held by who lets it go on.
        unsure: Its monitor may know fewer layers than its record, so none of them can be taken away.
        used: What its cgroup had counted at its end.
    """

    def __init__(
        self,
        record: MachineRecord,
        facilities: Facilities,
        vm: RunningVm,
        on_exit: Callable[[Machine], None],
        nic: Nic | None = None,
    ) -> None:
        self.record = record
        self.vm = vm
        self._nic = nic
        self._plugging = asyncio.Lock()
        self.gate = Gate()
        self.link = Link(record.machine_id, vm.agent_socket, self._wants_guest)
        self.held = False
        self.stopping = False
        self.secrets: Mapping[str, bytes] = {}
        self.unsure = False
        self.used: Usage | None = None
        self.turning = asyncio.Lock()
        self._facilities = facilities
        self._on_exit = on_exit
        self._driver = asyncio.create_task(self._drive(), name=f"machine {record.machine_id}")

    @property
    def id(self) -> str:
        return self.record.machine_id

    @property
    def answers(self) -> bool:
        """Whether its guest can be reached, as far as is known."""
        return self.link.answers and not self.stopping

    @property
    def guest(self) -> GuestClient:
        """Raises GuestFault while the guest cannot be reached."""
        return self.link.guest

    @classmethod
    async def start(
        cls,
        record: MachineRecord,
        start: Start,
        facilities: Facilities,
        secrets: Mapping[str, bytes],
        *,
        key: bytes | None,
        on_exit: Callable[[Machine], None],
    ) -> Machine:
        """
        Start a machine whose guest waits, frozen, for `wake`.

        Args:
            secrets: Of the state's layers, which the record names.
            key: Of the sandbox; None for a warm machine.

        Raises:
            GuestFault: The monitor did not start. Nothing is left behind, here and below.
            StorageFull: The disk has no room for it.
            StateDamaged: The state's memory is not what was saved.
            Unavailable: It is to have a network device, and there is none to be had.
        """
        directory = facilities.directory(record.machine_id)
        template = start.template
        top = Layer(facilities.layer(record.machine_id, layer_id := new_layer_id()), new_secret())
        secrets = {**secrets, layer_id: top.secret}
        record = replace(record, layers=(*record.layers, DiskLayer(layer_id)), origin=template.directory.name)
        if key is not None:
            record = record.with_secrets(secrets, key)

        def prepare() -> Cgroup:
            directory.mkdir(mode=0o711)  # the monitor's uid passes through to its own disk
            record.write(directory)
            return facilities.cgroup(record.machine_id, template.hardware.vcpus, record.memory_mib)

        vm: RunningVm | None = None
        nic: Nic | None = None
        try:
            if template.hardware.nic:
                nic = await facilities.networks.plug()
                record = replace(record, tap=nic.tap)
            cgroup = await finished(asyncio.to_thread(prepare))
            await facilities.sealer.create_layer(template.empty_overlay, top.path, secret=top.secret, uid=record.uid)
            vm = await facilities.vmm.restore(
                RestoreSpec(
                    placement=Placement(record.machine_id, directory, record.uid, cgroup),
                    hardware=template.hardware,
                    memory_file=template.memory,
                    devices=start.devices,
                    layers=[*start.layers, top],
                    disk_backing=template.disk_backing,
                    volume=start.volume,
                    tap=record.tap,
                    inject=start.inject,
                )
            )
            record = record.with_process(vm.process)
            record.write(directory)
        except BaseException as error:
            await finished(_undo(error, vm, nic, facilities, record.machine_id))
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull(
                    "The server's disk has no room for the sandbox", context={"cause": str(error)}
                ) from error
            if isinstance(error, (VmmFailed, OSError, *SEALING_FAULTS)):
                raise GuestFault("The machine did not start; try again", context={"cause": str(error)}) from error
            raise
        machine = cls(record, facilities, vm, on_exit, nic)
        if key is None:
            machine.secrets = secrets
        return machine

    @classmethod
    async def adopt(cls, record: MachineRecord, facilities: Facilities, on_exit: Callable[[Machine], None]) -> Machine:
        """
        Take over a machine that outlived the daemon. A guest that is silent now may still answer later.

        One that stands still, whose guest is frozen or that was being captured is held: whether it is to go on is
        for others to say.

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
            held = record.capturing is not None or not await vm.is_running()
            if not held:
                guest = await _greet(record, vm)
                held = guest is not None and guest.greeting.state != "awake"
            if held and not record.awake:
                raise VmmFailed("its guest was never woken")
        except BaseException:
            if guest is not None:
                await guest.close()
            await vm.close()
            raise
        machine = cls(record, facilities, vm, on_exit)
        machine.unsure = record.capturing is not None
        if held:
            if guest is not None:
                await guest.close()
            machine.hold()
        else:
            machine.link.take(guest)
        return machine

    async def wake(self, wake: WakeUp, *, fresh: bool = True) -> None:
        """
        Make the guest what *wake* says; then its user processes run. See `GuestClient.connect` for *fresh*.

        Raises:
            GuestFault, DeadlineExceeded: The guest did not confirm and must not be handed out.
            StorageFull, Unavailable: That it did could not be recorded.
        """
        if self.link.answers:
            await self.guest.wake(wake, timeout_s=WAKE_TIMEOUT_S)
        else:
            await self.link.connect(wake, fresh=fresh)
        if self.record.sandbox_id is not None and not self.record.awake:
            await self.update(replace(self.record, awake=True))

    async def admit(self, sandbox_id: SandboxId, network: NetworkSpec | None) -> bytes:
        """
        Let a machine that has just started reach what its sandbox may; without *network*, nothing.

        Returns what its guest is to be told to trust. Raises Unavailable.
        """
        if network is None:
            return b""
        assert self._nic is not None
        return await self._nic.admit(sandbox_id, network)

    async def attach_volume(self, disk: Layer, size_mib: int) -> None:
        """
        Bring a volume, which the record names, to /persist of a guest that is awake and has run no program yet.

        Raises:
            GuestFault: It was not mounted; the machine must not be handed out.
        """
        try:
            await self.vm.insert_volume(disk)
            await self.guest.attach_volume(size_mib << 20)
        except (VmmFailed, OSError, TerpError) as error:
            detail = f"The volume could not be mounted: {error.detail}" if isinstance(error, TerpError) else None
            raise GuestFault(
                detail or "The machine did not take the volume; try again", context={"cause": str(error)}
            ) from error

    async def detach_volume(self, *, timeout_s: float) -> None:
        """Before the end: let a guest that answers write its volume out. What fails is left to the journal there."""
        if self.record.volume is None or self.held or not self.link.answers:
            return
        try:
            await self.guest.detach_volume(timeout_s=timeout_s)
        except TerpError as error:
            log.warning("volume not unmounted", machine=self.id, volume=self.record.volume, why=error.detail)

    async def nic(self) -> Nic:
        """
        Its network device; that of a machine which was adopted is found again when first asked for, and all that the
        guest tries is blocked until its `update`.

        Raises:
            StateConflict: It has none.
            Unavailable: It is not found, or there is no gateway.
        """
        tap, sandbox_id = self.record.tap, self.record.sandbox_id
        if tap is None or sandbox_id is None:
            raise StateConflict(f"Sandbox {sandbox_id} has no network device; create one with network other than 'off'")
        async with self._plugging:
            if self._nic is None:
                nic = await self._facilities.networks.adopt(self.vm.process, tap)
                if self._driver.done():  # it has ended meanwhile, and nobody will close this
                    await nic.close()
                    raise StateConflict(f"Sandbox {sandbox_id} has ended")
                self._nic = nic
                await nic.block(sandbox_id)
            return self._nic

    async def claim(self, sandbox_id: SandboxId, key: bytes, volume: VolumeId | None) -> None:
        """
        Give the machine to a sandbox, which will have *volume*: one rename decides whose it is, also after a crash.

        Raises:
            StorageFull, Unavailable: It could not be recorded: it is nobody's.
        """
        await self.update(self.record.claimed_by(sandbox_id, volume).with_secrets(self.secrets, key))
        self.secrets = {}

    async def update(self, record: MachineRecord) -> None:
        """
        Replace the record.

        Raises:
            StorageFull, Unavailable: It could not be written (the machine may have just ended): it is what it was.
        """

        async def write() -> None:
            await asyncio.to_thread(record.write, self._facilities.directory(self.id))
            self.record = record

        try:
            await finished(write())
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull("The server's disk is full; try again", context={"cause": str(error)}) from error
            raise Unavailable("The machine could not be recorded; try again", context={"cause": str(error)}) from error

    def hold(self) -> None:
        """Note that the machine stands still, and tell those who wait for its guest."""
        self.held = True
        self.gate.refuse(_HELD)

    async def go_on(self, withheld: Mapping[str, str] | None = None) -> None:
        """
        Let a machine run that was stopped or whose guest was frozen, as the one it was, with what was *withheld*.

        Raises:
            GuestFault, DeadlineExceeded, VmmFailed: It cannot.
        """
        await self.vm.run()
        if self.link.answers:
            await self.guest.wake(going_on(withheld), timeout_s=WAKE_TIMEOUT_S)
        else:
            await self.link.part()
            await self.link.connect(going_on(withheld), fresh=False)
        self.held = False
        await self.let_calls_in()

    async def let_calls_in(self) -> None:
        """The end of a capture: its guest serves again what waits for it."""
        try:
            await self.update(replace(self.record, capturing=None))
        except TerpError as error:  # it runs; the next daemon would hold it, and be told to let it go on
            log.warning("a machine runs and its record does not say so", machine=self.id, why=error.detail)
            self.record = replace(self.record, capturing=None)
        self.gate.open()

    async def stop(self) -> None:
        """
        End the machine and remove all that was its own. Idempotent; concurrent callers all wait for the end.

        Raises:
            Unavailable: It has not ended after 30 s; it still will. `on_exit` is called then.
        """
        self.stopping = True
        self.vm.process.kill()
        done, _ = await asyncio.wait([self._driver], timeout=_STOP_TIMEOUT_S)
        if not done:
            raise Unavailable("The machine has not ended yet; try again", context={"machine": self.id})

    async def release(self) -> None:
        """Let go of a machine that runs on without this daemon."""
        self._driver.cancel()
        await asyncio.wait([self._driver])
        self.gate.open()
        await self._unplug()
        await self.vm.close()

    async def end(self) -> None:
        """Stop a machine that nobody will ask for again. One that hangs in the kernel stays charged until it ends."""
        try:
            await self.stop()
        except Unavailable as error:
            log.error("machine not stopped", machine=self.id, why=error.detail)  # noqa: TRY400  it says all

    def _wants_guest(self) -> bool:
        if self.record.sandbox_id is not None:
            return True
        log.warning("a warm machine lost its guest", machine=self.id)
        self.vm.process.kill()
        return False

    async def _drive(self) -> None:
        try:
            await self.vm.process.wait()
        finally:
            await self.link.end()
        await self._bury()
        self._on_exit(self)

    async def _bury(self) -> None:
        self.gate.open()  # who waits there finds no guest
        try:
            await self.vm.kill()
            await self._unplug()
            self.used = await asyncio.to_thread(self._facilities.usage, self.id)
            await asyncio.to_thread(self._facilities.remove, self.id)
        except Exception:  # whatever it is, who waits for the end must not wait for ever; the next start tries again
            log.exception("machine remains", machine=self.id)

    async def _unplug(self) -> None:
        async with self._plugging:
            if self._nic is not None:
                await self._nic.close()


def first_wake(sandbox_id: SandboxId | None, env: Mapping[str, str], *, forked: bool = False) -> WakeUp:
    """What makes a guest that of a new sandbox, or of none yet; *forked*, one that was another's before."""
    hostname = "warm" if sandbox_id is None else _hostname(sandbox_id)
    machine_id = secrets.token_bytes(16)
    return WakeUp(secrets.token_bytes(64), time.time_ns(), hostname, machine_id, env, keep_env=forked, forked=forked)


def _hostname(sandbox_id: SandboxId) -> str:
    """At most 63 characters of [a-z0-9-] (RFC 1123): the ULID in lower case."""
    return sandbox_id.removeprefix("sbx_").lower()


async def _greet(record: MachineRecord, vm: RunningVm) -> GuestClient | None:
    """The guest of an adopted machine that runs; None when it is silent."""
    try:
        return await GuestClient.connect(vm.agent_socket, fresh=False, timeout_s=_ADOPT_TIMEOUT_S)
    except GuestFault as error:
        if not record.awake:
            raise VmmFailed(f"its guest is silent, and was not woken yet: {error.detail}") from error
        log.warning("adopting a machine whose guest is silent", machine=record.machine_id, why=error.detail)
        return None


async def _undo(
    error: BaseException, vm: RunningVm | None, nic: Nic | None, facilities: Facilities, machine_id: str
) -> None:
    """Leave nothing of a start that ended with *error*; if that fails too, the next start of the daemon tries again."""
    try:
        if vm is not None:
            await vm.kill()
        if nic is not None:
            await nic.close()
        await asyncio.to_thread(facilities.remove, machine_id)
    except Exception as second:  # noqa: BLE001  must not replace the first
        error.add_note(f"undoing it failed as well: {second}")
        log.warning("machine remains", machine=machine_id, why=str(second))
