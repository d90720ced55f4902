"""
A Vmm without virtual machines: the monitor is a real process that sleeps, the guest a scripted agent on a real socket.

What a test relies on is as with QEMU: `agent.sock` lies in the machine's directory and is closed when the monitor
dies, a monitor outlives the daemon that started it, and is found again by name. A stopped guest answers nothing. What
a guest remembers (its names, its environment, what ran) is what `devices` returns: whoever is restored from that
remembers it too. Pages of memory it has none: the monitor maps no file.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.scripted_agent import Host, scripted_agent
from terpd.node.guest import agent_pb2 as wire
from terpd.node.jail.process import Process
from terpd.node.vmm.base import BootSpec, Layer, Placement, RestoreSpec, VmmFailed


@dataclass
class SimulatedGuest:
    """
    One machine, as its guest and its monitor see it.

    Faults to set: `mute` answers nothing any more, `hang_up` ends the next session at the next call; `faults` are
    raised by the methods of `SimulatedVm` so named, `gates` hold them back while they are not set.

    `ephemeral` are the variables that were set in it; `secrets_in_use`: a command runs that was given secrets.

    `layers` are of its own disk, lowest first; `volume` is behind its slot, and `mounted` that many bytes of it. `acts`
    are the names of the methods called, in their order.
    """

    name: str
    process: Process
    state: str = "frozen"
    hostname: str = ""
    env: dict[str, str] = field(default_factory=dict)
    ephemeral: dict[str, str] = field(default_factory=dict)
    secrets_in_use: bool = False
    trust: bytes = b""
    entropy: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    sessions: int = 0
    hang_up: bool = False
    mute: bool = False
    layers: list[Layer] = field(default_factory=list)
    volume: Layer | None = None
    mounted: int | None = None
    acts: list[str] = field(default_factory=list)
    faults: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    running: asyncio.Event = field(default_factory=asyncio.Event)

    async def act(self, name: str) -> None:
        """What each method of the monitor begins with."""
        self.acts.append(name)
        if gate := self.gates.get(name):
            await gate.wait()
        if not self.process.alive():
            raise VmmFailed("the monitor is gone")
        if fault := self.faults.get(name):
            raise fault

    def remember(self, devices: bytes) -> None:
        """Go on as the guest that `memories` was taken from."""
        kept = json.loads(devices)
        self.trust = kept.pop("trust").encode()
        for name, value in kept.items():
            setattr(self, name, value)

    def memories(self) -> bytes:
        remembered = ("state", "hostname", "env", "ephemeral", "commands")
        kept = {name: getattr(self, name) for name in remembered}
        return json.dumps({**kept, "trust": self.trust.decode()}).encode()

    async def serve(self, host: Host) -> None:
        """The script of its agent: every call of one session."""
        if not self.process.alive():
            return  # accepted at the very moment of its death: a dead monitor's connections are closed
        self.sessions += 1
        if self.mute:
            await host.silence()
        host.raw(await host.preface())
        while True:
            stream, request = await host.request()
            await self.running.wait()
            if not self.process.alive():
                return
            if self.mute:
                await host.silence()
            if self.hang_up:
                self.hang_up = False
                return
            self._answer(host, stream, request)

    def _wake(self, wake: wire.Wake) -> None:
        self.state = "awake"
        self.hostname = wake.hostname or self.hostname
        self.env = {**(self.env if wake.keep_env else {}), **wake.env}
        self.ephemeral = {**(self.ephemeral if wake.keep_env else {}), **wake.ephemeral_env}
        if wake.trust or wake.forked or not wake.keep_env:
            self.trust = wake.trust
        self.entropy.append(wake.entropy)

    def _answer(self, host: Host, stream: int, request: wire.Request) -> None:
        match request.WhichOneof("call"):
            case "hello":
                reply = wire.HelloReply(wire_version=1, agent_version="0", state=self.state, boot_id=bytes(16))
                host.reply(stream, hello=reply)
            case "wake":
                self._wake(request.wake)
                host.reply(stream, wake=wire.WakeReply())
            case "volume_attach":
                assert self.volume is not None
                self.mounted = request.volume_attach.size_bytes
            case "volume_detach":
                self.mounted = None
            case "freeze":
                if request.freeze.withhold_secrets:
                    if self.secrets_in_use:
                        host.end(stream, code=wire.Status.BUSY)
                        return
                    host.reply(stream, freeze=wire.FreezeReply(ephemeral_env=self.ephemeral))
                    self.ephemeral = {}
                self.state = "frozen"
            case "exec_start":
                self.commands.append(request.exec_start.command)
                host.reply(stream, exec_started=wire.ExecStarted(pid=7))
                host.reply(stream, exec_exited=wire.ExecExited(exit_code=int(request.exec_start.command == "false")))
            case "ping":
                pass
            case other:
                host.end(stream, code=wire.Status.INTERNAL, message=f"the simulated guest knows no {other}")
                return
        host.end(stream)


class SimulatedVm:
    """The state is the guest's: another daemon that adopts it gets another one of these."""

    def __init__(self, guest: SimulatedGuest, agent_socket: Path, devices_file: Path | None = None) -> None:
        self.process = guest.process
        self.agent_socket = agent_socket
        self._guest = guest
        self._devices_file = devices_file

    async def save(self) -> None:
        assert self._devices_file is not None
        self._devices_file.write_bytes(self._guest.memories())
        await self.kill()

    async def is_running(self) -> bool:
        await self._guest.act("is_running")
        return self._guest.running.is_set()

    async def stop(self) -> None:
        await self._guest.act("stop")
        self._guest.running.clear()

    async def devices(self) -> bytes:
        await self._guest.act("devices")
        assert not self._guest.running.is_set()
        return self._guest.memories()

    async def push_layer(self, layer: Layer) -> None:
        await self._guest.act("push_layer")
        assert not self._guest.running.is_set()
        assert layer.path.is_file()
        self._guest.layers.append(layer)

    async def insert_volume(self, volume: Layer) -> None:
        await self._guest.act("insert_volume")
        assert volume.path.is_file()
        assert self._guest.volume is None
        self._guest.volume = volume

    async def run(self) -> None:
        await self._guest.act("run")
        self._guest.running.set()

    async def flatten(self, below: int) -> None:
        await self._guest.act("flatten")
        assert 0 < below < len(self._guest.layers)
        del self._guest.layers[-1 - below : -1]

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def close(self) -> None:
        pass


class SimulatedVmm:
    """
    Get one from `simulated_vmm`. It outlives the supervisors that use it, as monitors do.

    Faults to set: `failure` is raised instead of starting; `gate` holds starts back while it is not set; `mute` makes
    guests that never answer.
    """

    def __init__(self) -> None:
        self.build = {"simulated": "1"}
        self.guests: dict[str, SimulatedGuest] = {}
        self.started: list[str] = []
        self.failure: Exception | None = None
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.swept = 0
        self.mute = False
        self._serving: set[asyncio.Task[None]] = set()
        self._children: list[subprocess.Popen[bytes]] = []

    def identity(self, *, nic: bool, slot: bool = True) -> Mapping[str, str]:
        return {
            **self.build,
            "machine": f"{'with a nic' if nic else 'without'}, {'with a slot' if slot else 'without'}",
        }

    async def boot(self, spec: BootSpec) -> SimulatedVm:
        assert spec.hardware.nic == (spec.tap is not None)
        return await self._start(spec.placement, "booted", spec.devices_file, spec.tap)

    async def restore(self, spec: RestoreSpec) -> SimulatedVm:
        devices = [spec.devices] if isinstance(spec.devices, Path) else []
        assert spec.layers
        assert spec.hardware.nic == (spec.tap is not None)
        for path in (
            spec.memory_file,
            *devices,
            *(layer.path for layer in spec.layers),
            *spec.disk_backing.values(),
        ):
            if not path.is_file():
                raise VmmFailed(f"no such file: {path}")
        vm = await self._start(spec.placement, "frozen", None, spec.tap)
        guest = self.guests[spec.placement.name]
        guest.layers = list(spec.layers)
        guest.volume = spec.volume
        if isinstance(spec.devices, bytes):
            guest.remember(spec.devices)
        if spec.inject is not None:
            try:
                await spec.inject(vm.process)
            except BaseException:
                await vm.kill()
                raise
        return vm

    async def adopt(self, placement: Placement, process: Process) -> SimulatedVm:
        guest = self.guests.get(placement.name)
        if guest is None or guest.process != process:
            raise VmmFailed("the monitor does not answer")
        return SimulatedVm(guest, placement.directory / "agent.sock")

    async def sweep(self) -> None:
        self.swept += 1

    def running(self) -> Sequence[tuple[str, Process]]:
        return [(name, guest.process) for name, guest in self.guests.items() if guest.process.alive()]

    async def close(self) -> None:
        """End all monitors."""
        for child in self._children:
            child.kill()
        await asyncio.gather(*self._serving)
        for child in self._children:
            child.wait()

    async def _start(self, placement: Placement, state: str, devices: Path | None, tap: int | None) -> SimulatedVm:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.failure is not None:
            self.failures += 1
            raise self.failure
        child = subprocess.Popen(["sleep", "1000"], pass_fds=() if tap is None else (tap,))
        self._children.append(child)
        guest = SimulatedGuest(placement.name, Process.of(child.pid), state, mute=self.mute)
        guest.running.set()
        self.guests[placement.name] = guest
        self.started.append(placement.name)
        ready = asyncio.Event()
        serving = asyncio.create_task(self._serve(guest, placement.directory, ready.set))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await ready.wait()
        except asyncio.CancelledError:
            child.kill()
            await serving
            raise
        return SimulatedVm(guest, placement.directory / "agent.sock", devices)

    @staticmethod
    async def _serve(guest: SimulatedGuest, directory: Path, ready: Callable[[], Awaitable[None] | None]) -> None:
        async with scripted_agent(directory, guest.serve):
            ready()
            await guest.process.wait()
            (directory / "agent.sock").unlink(missing_ok=True)
            for _ in range(8):  # asyncio forgets, open, what it has accepted but not begun to serve when it stops
                await asyncio.sleep(0)


@asynccontextmanager
async def simulated_vmm() -> AsyncIterator[SimulatedVmm]:
    vmm = SimulatedVmm()
    try:
        yield vmm
    finally:
        await vmm.close()
