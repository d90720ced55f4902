"""
A Node without virtual machines: a dict for a file system and a few commands with known behaviour.

The shell knows: `echo TEXT`, `cat` (stdin to stdout), `env NAME`, `pwd`, `exit N`, `kill N`, `hang` (until its
timeout), `wait NAME` (until the test sets `released[NAME]`), `bytes N` (N bytes of output in 32 KiB pieces),
`pieces HEX HEX …` (one output event each), `err TEXT` (to stderr). Anything else exits with 127.

A saved state is a copy of files, environment and commands. A machine that starts from one has them, and a command
that did not end can be attached to: it gives its output again from any offset, and ends as it would have.

A machine's ports are servers of the test: `listening` says where each of them is. What connections come to is what a
test says with `report`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from support.sandboxes import NOON
from support.simulated_code import SimulatedCode
from support.simulated_commands import SimulatedCommand, SimulatedCommands
from terpd.model.code import CodeContext, CodeEvent, CodeRequest, Language
from terpd.model.errors import (
    AlreadyExists,
    CapacityUnavailable,
    ExecNotFound,
    FileNotFound,
    GuestFault,
    InvalidRequest,
    StateConflict,
    StateDamaged,
    TemplateNotFound,
    TerpError,
    Unavailable,
)
from terpd.model.guest import (
    CommandInfo,
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    ExecStarted,
    Extracted,
    FileChange,
    FileEvent,
    FileInfo,
    GuestStats,
    LogPage,
    OpenFile,
    OutputStream,
    PtySize,
)
from terpd.model.ids import ExecId, SandboxId, StateId, VolumeId
from terpd.model.network import EgressRecord, NetworkSpec
from terpd.model.ports import MachinePhase, MachineSpec, NodeCapacity, StateRef
from terpd.model.snapshot import SavedState
from terpd.model.template import TemplateInfo
from terpd.model.usage import LiveUsage, MachineTotal
from terpd.model.volume import VolumeRef

PIECE_BYTES = 32 * 1024


@dataclass
class SimulatedFile:
    content: bytes
    mode: int = 0o644
    modified_at: dt.datetime = NOON


@dataclass
class Memory:
    """What a machine holds, and what is saved of it."""

    env: Mapping[str, str]
    files: dict[str, SimulatedFile] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {"/", "/workspace", "/tmp", "/persist"})
    commands: dict[ExecId, ExecRequest] = field(default_factory=dict)
    background: SimulatedCommands = field(default_factory=SimulatedCommands)

    def copy(self, *, with_secrets: bool = True) -> Memory:
        files = {path: replace(file) for path, file in self.files.items()}
        background = self.background.copy(with_env=with_secrets)
        return Memory(dict(self.env), files, set(self.directories), dict(self.commands), background)


@dataclass
class SimulatedMachine:
    """
    Attributes:
        network: What it may reach now; None: nothing, since the daemon was restarted or it has no network device.
        listening: Host and port of the server behind each of its ports.
        cut: Set when a pause, or the end, cuts those off who read from its commands.
    """

    spec: MachineSpec
    memory: Memory
    phase: MachinePhase = MachinePhase.AWAKE
    capturing: bool = False
    network: NetworkSpec | None = field(default=None, repr=False)
    listening: dict[int, tuple[str, int]] = field(default_factory=dict)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def files(self) -> dict[str, SimulatedFile]:
        return self.memory.files

    @property
    def directories(self) -> set[str]:
        return self.memory.directories


@dataclass(frozen=True)
class SimulatedState:
    memory: Memory
    key: bytes


class SimulatedNode:
    """
    Faults to set: `start_error` is raised instead of starting, `stop_error` instead of stopping, `capture_error`
    instead of saving, `continue_error` instead of continuing (and the machine ends), `collect_error` instead of
    collecting, `volume_error` instead of storing or removing a volume, `state_error` instead of telling whether there
    is a state, `network_error` instead of setting a policy;
    `start_gate`, `capture_gate` and `network_gate` hold starts, captures and policies back while they are not set;
    `usage` and `totals` are what machines use; `code` is what kernels show;
    `read_error_after` breaks a file read after so many bytes. What is written to a path in `swallowed` is only counted.
    `file_events` are what watchers are told; None ends that.

    Cancelling a capture that is held back is what the death of the daemon is: the machine stays HELD.
    """

    def __init__(self, *, machines_cap: int = 100) -> None:
        self.machines: dict[SandboxId, SimulatedMachine] = {}
        self.states: dict[StateId, SimulatedState] = {}
        self.machines_cap = machines_cap
        self.start_error: Exception | None = None
        self.stop_error: TerpError | None = None
        self.capture_error: Exception | None = None
        self.continue_error: TerpError | None = None
        self.collect_error: TerpError | None = None
        self.state_error: TerpError | None = None
        self.network_error: TerpError | None = None
        self.network_gate = asyncio.Event()
        self.network_gate.set()
        self.setting_network = asyncio.Event()
        self.start_gate = asyncio.Event()
        self.start_gate.set()
        self.starting = asyncio.Event()
        self.capture_gate = asyncio.Event()
        self.capture_gate.set()
        self.capturing = asyncio.Event()
        self.read_error_after: int | None = None
        self.swallowed: dict[str, int] = {}
        self.file_events: asyncio.Queue[FileEvent | None] = asyncio.Queue()
        self.released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.detached: list[ExecId] = []
        self.finished: list[ExecId] = []
        self.volumes: dict[VolumeId, tuple[bytes, dict[str, SimulatedFile]]] = {}
        self.checkpoints: set[VolumeId] = set()
        self.volume_error: TerpError | None = None
        self.stopped: list[SandboxId] = []
        self.collections: list[frozenset[StateId]] = []
        self.sent_bytes = 0
        self.code = SimulatedCode()
        self.usage: dict[SandboxId, LiveUsage] = {}
        self.totals: list[MachineTotal] = []
        self._egress: asyncio.Queue[Sequence[EgressRecord]] = asyncio.Queue()
        self._exits: asyncio.Queue[SandboxId] = asyncio.Queue()
        self._starts: dict[SandboxId, asyncio.Event] = {}
        self._saving: set[StateId] = set()

    @property
    def node_id(self) -> str:
        return "node-a"

    async def start_machine(self, spec: MachineSpec) -> None:
        self.starting.set()
        stopped = self._starts[spec.sandbox_id] = asyncio.Event()
        try:
            await self._first(self.start_gate, stopped)
        finally:
            del self._starts[spec.sandbox_id]
        if stopped.is_set():
            raise StateConflict("It was stopped while it was starting")
        if self.start_error is not None:
            raise self.start_error
        if spec.template not in ("python-3.12", "debian-12"):
            raise TemplateNotFound(f"There is no such template: {spec.template}")
        if spec.sandbox_id in self.machines:
            raise AlreadyExists("There is a machine of that id")
        if len(self.machines) >= self.machines_cap:
            raise CapacityUnavailable("The node is full")
        memory = self._memory(spec)
        if spec.volume is not None:
            held = [machine.spec.volume.id for machine in self.machines.values() if machine.spec.volume is not None]
            assert spec.volume.id not in held, "two machines with one volume"
            key, files = self.volumes.setdefault(spec.volume.id, (spec.volume.key, {}))
            assert key == spec.volume.key, "not the key that the volume was made with"
            self.checkpoints.discard(spec.volume.id)
            memory.files |= files
        self.machines[spec.sandbox_id] = SimulatedMachine(spec, memory, network=spec.network)

    def _memory(self, spec: MachineSpec) -> Memory:
        if spec.state is None:
            return Memory(dict(spec.env))
        state = self.states.get(spec.state.id)
        if state is None or state.key != spec.state.key:
            raise StateDamaged("There is no such state, or it was saved with another key")
        memory = state.memory.copy()
        memory.env = {**memory.env, **spec.env}
        return memory

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        if self.stop_error is not None:
            raise self.stop_error
        self.stopped.append(sandbox_id)
        if (stopped := self._starts.get(sandbox_id)) is not None:
            stopped.set()
        self._remove(sandbox_id)

    def _remove(self, sandbox_id: SandboxId) -> None:
        machine = self.machines.pop(sandbox_id, None)
        if machine is not None:
            if machine.spec.volume is not None:
                files = {path: file for path, file in machine.files.items() if path.startswith("/persist/")}
                self.volumes[machine.spec.volume.id] = (machine.spec.volume.key, files)
            machine.gone.set()
            machine.cut.set()

    # ---- saved states ----

    async def pause_machine(self, sandbox_id: SandboxId, *, key: bytes, into: StateRef) -> SavedState:
        machine = self._to_capture(sandbox_id, key)
        machine.cut.set()
        saved = await self._capture(machine, into)
        machine.phase = MachinePhase.HELD
        return saved

    async def snapshot_machine(
        self, sandbox_id: SandboxId, *, key: bytes, into: StateRef, withhold_secrets: bool
    ) -> SavedState:
        machine = self._to_capture(sandbox_id, key)
        if withhold_secrets:
            followed = [each for id_, each in machine.memory.commands.items() if id_ not in self.finished]
            machine.memory.background.check_secrets(followed)
        return await self._capture(machine, into, with_secrets=not withhold_secrets)

    def _to_capture(self, sandbox_id: SandboxId, key: bytes) -> SimulatedMachine:
        machine = self._machine(sandbox_id)
        if machine.capturing:
            raise StateConflict("A capture of it is under way")
        assert key == machine.spec.key, "not the key that the machine was started with"
        return machine

    async def _capture(self, machine: SimulatedMachine, into: StateRef, *, with_secrets: bool = True) -> SavedState:
        machine.capturing = True
        machine.phase = MachinePhase.HELD
        self._saving.add(into.id)
        self.capturing.set()
        try:
            await self._first(self.capture_gate, machine.gone)
        finally:
            self._saving.discard(into.id)
            machine.capturing = False
        if machine.gone.is_set():
            raise StateConflict("It was stopped while it was saved")
        machine.phase = MachinePhase.AWAKE
        if self.capture_error is not None:
            machine.cut.clear()
            raise self.capture_error
        self.states[into.id] = SimulatedState(machine.memory.copy(with_secrets=with_secrets), into.key)
        return SavedState(into.id, dirty_bytes=4096, stored_bytes=1024, stopped_s=0.01)

    async def continue_machine(self, sandbox_id: SandboxId) -> None:
        if sandbox_id not in self.machines:
            raise StateConflict("There is no machine of it here")
        if self.continue_error is not None:
            self.crash(sandbox_id)
            raise self.continue_error
        machine = self.machines[sandbox_id]
        machine.phase = MachinePhase.AWAKE
        machine.cut.clear()

    async def has_state(self, state_id: StateId) -> bool:
        if self.state_error is not None:
            raise self.state_error
        return state_id in self.states

    async def collect(self, keep: Collection[StateId]) -> None:
        if self.collect_error is not None:
            raise self.collect_error
        self.collections.append(frozenset(keep))
        for state_id in set(self.states) - set(keep) - self._saving:
            del self.states[state_id]

    # ---- volumes ----

    async def checkpoint_volume(self, volume: VolumeRef) -> None:
        if self.volume_error is not None:
            raise self.volume_error
        if volume.id in self.volumes:
            self.checkpoints.add(volume.id)

    async def remove_volume(self, volume_id: VolumeId) -> None:
        if self.volume_error is not None:
            raise self.volume_error
        self.volumes.pop(volume_id, None)

    async def collect_volumes(self, keep: Collection[VolumeId]) -> None:
        for volume_id in set(self.volumes) - set(keep):
            del self.volumes[volume_id]

    # ---- network ----

    async def set_network(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        self.setting_network.set()
        await self.network_gate.wait()
        if self.network_error is not None:
            raise self.network_error
        machine = self.machines.get(sandbox_id)
        if machine is None or machine.spec.network is None:
            raise StateConflict("There is no machine of it here, or it has no network device")
        machine.network = network

    def adopt_all(self) -> None:
        """As after a restart of the daemon: networks reach nothing until they are set."""
        for machine in self.machines.values():
            machine.network = None

    def report(self, *records: EgressRecord) -> None:
        """Without records: the node is closed."""
        self._egress.put_nowait(records)

    async def egress(self) -> AsyncIterator[Sequence[EgressRecord]]:
        while records := await self._egress.get():
            yield records

    async def dial(self, sandbox_id: SandboxId, port: int) -> socket.socket:
        machine = self._machine(sandbox_id)
        if machine.spec.network is None:
            raise StateConflict("It has no network device")
        if port not in machine.listening:
            raise Unavailable(f"Nobody listens on port {port}")
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, machine.listening[port])
        return connection

    # ---- what there is ----

    def crash(self, sandbox_id: SandboxId) -> None:
        """The machine ends by itself."""
        assert sandbox_id in self.machines
        self._remove(sandbox_id)
        self._exits.put_nowait(sandbox_id)

    async def list_machines(self) -> Mapping[SandboxId, MachinePhase]:
        return {sandbox_id: machine.phase for sandbox_id, machine in self.machines.items()}

    def live_usage(self, sandbox_id: SandboxId) -> LiveUsage | None:
        machine = self.machines.get(sandbox_id)
        awake = machine is not None and machine.phase is MachinePhase.AWAKE
        return self.usage.get(sandbox_id, LiveUsage(())) if awake else None

    def usage_totals(self) -> Collection[MachineTotal]:
        return list(self.totals)

    async def exits(self) -> AsyncIterator[SandboxId]:
        while True:
            yield await self._exits.get()

    async def templates(self) -> Sequence[TemplateInfo]:
        return [TemplateInfo("python-3.12", "CPython 3.12", "sha256:0", 1024, ("small",))]

    async def capacity(self) -> NodeCapacity:
        used = len(self.machines)
        return NodeCapacity(used * 1024, self.machines_cap * 1024, used, self.machines_cap)

    # ---- exec ----

    async def exec(self, sandbox_id: SandboxId, request: ExecRequest) -> AsyncIterator[ExecEvent]:
        machine = self._machine(sandbox_id)
        if request.cwd not in machine.directories:
            raise InvalidRequest(f"cwd does not exist: {request.cwd}")
        if request.background or request.pty is not None:
            word, _, rest = request.command.partition(" ")
            output = [data for _, data in self._output(machine, request, word, rest)]
            codes = {"exit": rest, "echo": "0", "env": "0", "pieces": "0", "bytes": "0"}
            code = codes.get(word)
            machine.memory.background.start(request, output, None if code is None else int(code))
            yield ExecStarted(pid=17)
            return
        machine.memory.commands[request.exec_id] = request
        async for event in self._follow(machine, request, 0):
            yield event

    async def attach(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> AsyncIterator[ExecEvent]:
        machine = self._machine(sandbox_id)
        if exec_id in machine.memory.background.by_id:
            command = machine.memory.background.by_id[exec_id]
            async for event in command.follow(offset, machine.cut, machine.gone):
                yield event
            return
        if exec_id not in machine.memory.commands:
            raise ExecNotFound(f"There is no such command: {exec_id}")
        async for event in self._follow(machine, machine.memory.commands[exec_id], offset):
            yield event

    async def _follow(self, machine: SimulatedMachine, request: ExecRequest, seen: int) -> AsyncIterator[ExecEvent]:
        try:
            yield ExecStarted(pid=17)
            offset = 0
            word, _, rest = request.command.partition(" ")
            for stream, data in self._output(machine, request, word, rest):
                unseen = data[max(0, seen - offset) :]
                offset += len(data)
                if unseen:
                    self.sent_bytes += len(unseen)
                    yield ExecOutput(stream, unseen, offset - len(unseen))
            yield await self._end(machine, request, word, rest)
            self.finished.append(request.exec_id)
        finally:
            if request.exec_id not in self.finished:
                self.detached.append(request.exec_id)

    def _output(
        self, machine: SimulatedMachine, request: ExecRequest, word: str, rest: str
    ) -> Sequence[tuple[OutputStream, bytes]]:
        outputs: dict[str, Callable[[], Sequence[bytes]]] = {
            "echo": lambda: [f"{rest}\n".encode()],
            "err": lambda: [f"{rest}\n".encode()],
            "cat": lambda: [request.stdin or b""],
            "env": lambda: [self._env(machine, request).get(rest, "").encode()],
            "pwd": lambda: [request.cwd.encode()],
            "bytes": lambda: [b"x" * min(PIECE_BYTES, int(rest) - at) for at in range(0, int(rest), PIECE_BYTES)],
            "pieces": lambda: [bytes.fromhex(piece) for piece in rest.split()],
            "wait": lambda: [b"begun\n"],
            "hang": lambda: [b"begun\n"],
        }
        stream = OutputStream.STDERR if word == "err" else OutputStream.STDOUT
        return [(stream, data) for data in outputs.get(word, list)()]

    @staticmethod
    def _env(machine: SimulatedMachine, request: ExecRequest) -> Mapping[str, str]:
        memory = machine.memory
        return {**memory.env, **memory.background.env, **request.env, **request.secrets}

    async def _end(self, machine: SimulatedMachine, request: ExecRequest, word: str, rest: str) -> ExecExited:
        match word:
            case "exit":
                return ExecExited(int(rest), None, timed_out=False, duration_ms=3)
            case "kill":
                return ExecExited(128 + int(rest), int(rest), timed_out=False, duration_ms=3)
            case "wait":
                await self._until_cut(machine, self.released[rest])
            case "hang":
                await self._until_cut(machine, self.released["timeout"])
                return ExecExited(143, 15, timed_out=True, duration_ms=int((request.timeout_s or 0) * 1000))
            case "echo" | "err" | "cat" | "env" | "pwd" | "bytes" | "pieces":
                pass
            case _:
                return ExecExited(127, None, timed_out=False, duration_ms=3)
        return ExecExited(0, None, timed_out=False, duration_ms=3)

    async def _until_cut(self, machine: SimulatedMachine, released: asyncio.Event) -> None:
        await self._first(machine.cut, released)
        if machine.gone.is_set():
            raise GuestFault("The guest is lost")
        if machine.cut.is_set():
            raise StateConflict("It was paused")

    @staticmethod
    async def _first(*events: asyncio.Event) -> None:
        """Until one of *events* is set."""
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    async def signal(self, sandbox_id: SandboxId, exec_id: ExecId, signal: int) -> None:
        background = self._machine(sandbox_id).memory.background
        if exec_id in background.by_id:
            background.find(exec_id).kill(signal)

    # ---- background commands, terminals, variables ----

    def command(self, sandbox_id: SandboxId, exec_id: str) -> SimulatedCommand:
        return self.machines[sandbox_id].memory.background.find(ExecId(exec_id))

    async def list_commands(self, sandbox_id: SandboxId) -> Sequence[CommandInfo]:
        return [command.info for command in self._machine(sandbox_id).memory.background.by_id.values()]

    async def read_log(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int, limit: int) -> LogPage:
        await asyncio.sleep(0)
        return self._machine(sandbox_id).memory.background.find(exec_id).page(offset, limit)

    async def send_input(
        self, sandbox_id: SandboxId, exec_id: ExecId, data: bytes, *, offset: int | None = None, close: bool = False
    ) -> int:
        return self._machine(sandbox_id).memory.background.type(exec_id, data, offset)

    async def resize_pty(self, sandbox_id: SandboxId, exec_id: ExecId, size: PtySize) -> None:
        self._machine(sandbox_id).memory.background.resize(exec_id, size)

    async def change_env(self, sandbox_id: SandboxId, to_set: Mapping[str, str], to_unset: Collection[str]) -> None:
        self._machine(sandbox_id).memory.background.change_env(to_set, to_unset)

    async def env_names(self, sandbox_id: SandboxId) -> Sequence[str]:
        return sorted(self._machine(sandbox_id).memory.background.env)

    # ---- code ----

    async def run_code(self, sandbox_id: SandboxId, request: CodeRequest) -> AsyncIterator[CodeEvent]:
        self._machine(sandbox_id)
        async with aclosing(self.code.run(request)) as events:
            async for event in events:
                yield event

    async def list_code_contexts(self, sandbox_id: SandboxId) -> Sequence[CodeContext]:
        self._machine(sandbox_id)
        return self.code.list()

    async def create_code_context(self, sandbox_id: SandboxId, language: Language, cwd: str) -> CodeContext:
        self._machine(sandbox_id)
        return self.code.create(language, cwd)

    async def restart_code_context(self, sandbox_id: SandboxId, context_id: str) -> CodeContext:
        self._machine(sandbox_id)
        return self.code.find(context_id)

    async def remove_code_context(self, sandbox_id: SandboxId, context_id: str) -> None:
        self._machine(sandbox_id)
        del self.code.contexts[self.code.find(context_id).id]

    # ---- files ----

    async def read_file(self, sandbox_id: SandboxId, path: str, *, limit: int | None = None) -> AsyncIterator[bytes]:
        machine = self._machine(sandbox_id)
        if path in machine.directories:
            raise InvalidRequest(f"It is a directory: {path}")
        if path not in machine.files:
            raise FileNotFound(f"There is no such file: {path}")
        content = machine.files[path].content[:limit]
        for at in range(0, len(content), 2 * PIECE_BYTES):
            if self.read_error_after is not None and at >= self.read_error_after:
                raise GuestFault("The guest is lost")
            yield content[at : at + 2 * PIECE_BYTES]

    async def open_file(
        self, sandbox_id: SandboxId, path: str, *, offset: int = 0, limit: int | None = None
    ) -> OpenFile:
        machine = self._machine(sandbox_id)
        if path in machine.directories:
            raise InvalidRequest(f"It is a directory: {path}")
        if path not in machine.files:
            raise FileNotFound(f"There is no such file: {path}")
        content = machine.files[path].content
        end = len(content) if limit is None else min(len(content), offset + limit)

        async def chunks() -> AsyncGenerator[bytes, None]:
            for at in range(offset, end, 2 * PIECE_BYTES):
                if self.read_error_after is not None and at >= self.read_error_after:
                    raise GuestFault("The guest is lost")
                yield content[at : min(end, at + 2 * PIECE_BYTES)]

        return OpenFile(self._info(machine, path), chunks())

    async def write_file(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        machine = self._machine(sandbox_id)
        if path in machine.directories:
            raise InvalidRequest(f"It is a directory: {path}")
        if path in self.swallowed:
            async for chunk in chunks:
                self.swallowed[path] += len(chunk)
            return self.swallowed[path]
        content = b"".join([chunk async for chunk in chunks])
        self._make_parents(machine, path)
        machine.files[path] = SimulatedFile(content, mode)
        return len(content)

    async def watch_files(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> AsyncIterator[FileEvent]:
        machine = self._machine(sandbox_id)
        if path not in machine.directories:
            raise FileNotFound(f"There is no such file: {path}")
        yield FileEvent(FileChange.READY, path, is_dir=True)
        while True:
            coming = asyncio.create_task(self.file_events.get())
            cut = asyncio.create_task(machine.cut.wait())
            try:
                await asyncio.wait([coming, cut], return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise GuestFault("The guest is lost")
                event = coming.result()
            finally:
                coming.cancel()
                cut.cancel()
            if event is None:
                return
            yield event

    async def read_archive(self, sandbox_id: SandboxId, path: str) -> AsyncIterator[bytes]:
        """A file is its own archive: what is in a stream is a guest's to know."""
        async for chunk in self.read_file(sandbox_id, path):
            yield chunk

    async def write_archive(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes]) -> Extracted:
        size = await self.write_file(sandbox_id, f"{path}/archive", chunks, 0o600)
        return Extracted(1, size)

    async def list_files(self, sandbox_id: SandboxId, path: str) -> Sequence[FileInfo]:
        machine = self._machine(sandbox_id)
        parent = path.rstrip("/") + "/"
        inside = [
            p for p in (*machine.files, *machine.directories) if p != "/" and p.rpartition("/")[0] + "/" == parent
        ]
        return [self._info(machine, p) for p in sorted(inside)]

    async def stat_file(self, sandbox_id: SandboxId, path: str) -> FileInfo | None:
        machine = self._machine(sandbox_id)
        known = path in machine.files or path in machine.directories
        return self._info(machine, path) if known else None

    async def make_directory(self, sandbox_id: SandboxId, path: str, *, parents: bool) -> None:
        machine = self._machine(sandbox_id)
        if path in machine.files or (path in machine.directories and not parents):
            raise AlreadyExists(f"It exists: {path}")
        if not parents and path.rpartition("/")[0] not in machine.directories:
            raise FileNotFound(f"There is no directory for: {path}")
        self._make_parents(machine, f"{path}/x")

    async def move_file(self, sandbox_id: SandboxId, source: str, destination: str) -> None:
        machine = self._machine(sandbox_id)
        if source not in machine.files:
            raise FileNotFound(f"There is no such file: {source}")
        self._make_parents(machine, destination)
        machine.files[destination] = machine.files.pop(source)

    async def remove_file(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> None:
        machine = self._machine(sandbox_id)
        if path in machine.directories and not recursive:
            raise InvalidRequest(f"It is a directory: {path}")
        if machine.files.pop(path, None) is None:
            raise FileNotFound(f"There is no such file: {path}")

    async def stats(self, sandbox_id: SandboxId) -> GuestStats:
        self._machine(sandbox_id)
        return GuestStats(1, 1, 1, 1, 1, 1, 1, 0)

    def _machine(self, sandbox_id: SandboxId) -> SimulatedMachine:
        if sandbox_id not in self.machines:
            raise StateConflict(f"There is no machine of sandbox {sandbox_id} here")
        machine = self.machines[sandbox_id]
        snapshotting = machine.capturing and not machine.cut.is_set()
        if machine.phase is MachinePhase.HELD and not snapshotting:
            raise StateConflict(f"The machine of sandbox {sandbox_id} is held")
        return machine

    @staticmethod
    def _make_parents(machine: SimulatedMachine, path: str) -> None:
        while path := path.rpartition("/")[0]:
            machine.directories.add(path)

    @staticmethod
    def _info(machine: SimulatedMachine, path: str) -> FileInfo:
        name = path.rpartition("/")[2]
        if path in machine.directories:
            return FileInfo(name, is_dir=True, size=0, mode=0o755, modified_at=NOON)
        file = machine.files[path]
        return FileInfo(name, is_dir=False, size=len(file.content), mode=file.mode, modified_at=file.modified_at)
