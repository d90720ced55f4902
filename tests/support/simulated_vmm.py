"""
A Vmm without virtual machines: the monitor is a real process that sleeps, the guest a scripted agent on a real socket.

What a test relies on is as with QEMU: `agent.sock` lies in the machine's directory and is closed when the monitor
dies, a monitor outlives the daemon that started it, and is found again by name.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.scripted_agent import Host, scripted_agent
from terpd.node.guest import agent_pb2 as wire
from terpd.node.jail.process import Process
from terpd.node.vmm.base import BootSpec, Placement, RestoreSpec, VmmFailed


@dataclass
class SimulatedGuest:
    """
    One machine as its guest sees it. Faults to set: `mute` answers nothing any more, `hang_up` ends the next session
    at the next call.
    """

    name: str
    process: Process
    state: str = "frozen"
    hostname: str = ""
    env: dict[str, str] = field(default_factory=dict)
    entropy: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    sessions: int = 0
    hang_up: bool = False
    mute: bool = False

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
            if not self.process.alive():
                return
            if self.mute:
                await host.silence()
            if self.hang_up:
                self.hang_up = False
                return
            self._answer(host, stream, request)

    def _answer(self, host: Host, stream: int, request: wire.Request) -> None:
        match request.WhichOneof("call"):
            case "hello":
                reply = wire.HelloReply(wire_version=1, agent_version="0", state=self.state, boot_id=bytes(16))
                host.reply(stream, hello=reply)
            case "wake":
                self.state = "awake"
                self.hostname = request.wake.hostname
                self.env = dict(request.wake.env)
                self.entropy.append(request.wake.entropy)
                host.reply(stream, wake=wire.WakeReply())
            case "freeze":
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
    def __init__(self, process: Process, agent_socket: Path, devices: Path | None = None) -> None:
        self.process = process
        self.agent_socket = agent_socket
        self._devices = devices

    async def save(self) -> None:
        assert self._devices is not None
        self._devices.write_bytes(b"devices")
        await self.kill()

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
        self.guests: dict[str, SimulatedGuest] = {}
        self.started: list[str] = []
        self.failure: Exception | None = None
        self.failures = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.mute = False
        self._serving: set[asyncio.Task[None]] = set()
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def identity(self) -> dict[str, str]:
        return {"simulated": "1"}

    async def boot(self, spec: BootSpec) -> SimulatedVm:
        return await self._start(spec.placement, "booted", spec.devices_file)

    async def restore(self, spec: RestoreSpec) -> SimulatedVm:
        for path in (spec.memory_file, spec.devices_file, spec.disk, *spec.disk_backing.values()):
            if not path.is_file():
                raise VmmFailed(f"no such file: {path}")
        return await self._start(spec.placement, "frozen", None)

    async def adopt(self, placement: Placement, process: Process) -> SimulatedVm:
        return SimulatedVm(process, placement.directory / "agent.sock")

    def running(self) -> Sequence[tuple[str, Process]]:
        return [(name, guest.process) for name, guest in self.guests.items() if guest.process.alive()]

    async def close(self) -> None:
        """End all monitors."""
        for child in self._children:
            child.kill()
        await asyncio.gather(*self._serving)
        for child in self._children:
            child.wait()

    async def _start(self, placement: Placement, state: str, devices: Path | None) -> SimulatedVm:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.failure is not None:
            self.failures += 1
            raise self.failure
        child = subprocess.Popen(["sleep", "1000"])
        self._children.append(child)
        guest = SimulatedGuest(placement.name, Process.of(child.pid), state, mute=self.mute)
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
        return SimulatedVm(guest.process, placement.directory / "agent.sock", devices)

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
