"""
A Node without virtual machines: a dict for a file system and a few commands with known behaviour.

The shell knows: `echo TEXT`, `cat` (stdin to stdout), `env NAME`, `pwd`, `exit N`, `kill N`, `hang` (until its
timeout), `wait NAME` (until the test sets `released[NAME]`), `bytes N` (N bytes of output in 32 KiB pieces),
`pieces HEX HEX …` (one output event each), `err TEXT` (to stderr). Anything else exits with 127.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from support.sandboxes import NOON
from terpd.model.errors import (
    AlreadyExists,
    CapacityUnavailable,
    ExecNotFound,
    FileNotFound,
    GuestFault,
    InvalidRequest,
    StateConflict,
    TemplateNotFound,
    TerpError,
)
from terpd.model.guest import (
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    ExecStarted,
    FileInfo,
    GuestStats,
    OutputStream,
)
from terpd.model.ids import ExecId, SandboxId
from terpd.model.ports import MachineSpec, NodeCapacity
from terpd.model.template import TemplateInfo

PIECE_BYTES = 32 * 1024


@dataclass
class SimulatedFile:
    content: bytes
    mode: int = 0o644
    modified_at: dt.datetime = NOON


@dataclass
class SimulatedMachine:
    spec: MachineSpec
    files: dict[str, SimulatedFile] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {"/", "/workspace", "/tmp", "/persist"})
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class SimulatedNode:
    """
    Faults to set: `start_error` is raised instead of starting, `stop_error` instead of stopping, `start_gate` holds
    starts back while it is not set, `read_error_after` breaks a file read after so many bytes.
    """

    def __init__(self, *, machines_cap: int = 100) -> None:
        self.machines: dict[SandboxId, SimulatedMachine] = {}
        self.machines_cap = machines_cap
        self.start_error: Exception | None = None
        self.stop_error: TerpError | None = None
        self.start_gate = asyncio.Event()
        self.start_gate.set()
        self.starting = asyncio.Event()
        self.read_error_after: int | None = None
        self.released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.detached: list[ExecId] = []
        self.finished: list[ExecId] = []
        self.stopped: list[SandboxId] = []
        self.sent_bytes = 0
        self._exits: asyncio.Queue[SandboxId] = asyncio.Queue()

    @property
    def node_id(self) -> str:
        return "node-a"

    async def start_machine(self, spec: MachineSpec) -> None:
        self.starting.set()
        await self.start_gate.wait()
        if self.start_error is not None:
            raise self.start_error
        if spec.template not in ("python-3.12", "debian-12"):
            raise TemplateNotFound(f"There is no such template: {spec.template}")
        if spec.sandbox_id in self.machines:
            raise AlreadyExists("There is a machine of that id")
        if len(self.machines) >= self.machines_cap:
            raise CapacityUnavailable("The node is full")
        self.machines[spec.sandbox_id] = SimulatedMachine(spec)

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        if self.stop_error is not None:
            raise self.stop_error
        self.stopped.append(sandbox_id)
        machine = self.machines.pop(sandbox_id, None)
        if machine is not None:
            machine.gone.set()

    def crash(self, sandbox_id: SandboxId) -> None:
        """The machine ends by itself."""
        self.machines.pop(sandbox_id).gone.set()
        self._exits.put_nowait(sandbox_id)

    async def list_machines(self) -> Sequence[SandboxId]:
        return list(self.machines)

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
        try:
            yield ExecStarted(pid=17)
            offset = 0
            word, _, rest = request.command.partition(" ")
            for stream, data in self._output(machine, request, word, rest):
                self.sent_bytes += len(data)
                yield ExecOutput(stream, data, offset)
                offset += len(data)
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
            "env": lambda: [{**machine.spec.env, **request.env}.get(rest, "").encode()],
            "pwd": lambda: [request.cwd.encode()],
            "bytes": lambda: [b"x" * min(PIECE_BYTES, int(rest) - at) for at in range(0, int(rest), PIECE_BYTES)],
            "pieces": lambda: [bytes.fromhex(piece) for piece in rest.split()],
            "wait": lambda: [b"begun\n"],
            "hang": lambda: [b"begun\n"],
        }
        stream = OutputStream.STDERR if word == "err" else OutputStream.STDOUT
        return [(stream, data) for data in outputs.get(word, list)()]

    async def _end(self, machine: SimulatedMachine, request: ExecRequest, word: str, rest: str) -> ExecExited:
        match word:
            case "exit":
                return ExecExited(int(rest), None, timed_out=False, duration_ms=3)
            case "kill":
                return ExecExited(128 + int(rest), int(rest), timed_out=False, duration_ms=3)
            case "wait":
                await self._until_gone(machine, self.released[rest])
            case "hang":
                await self._until_gone(machine, self.released["timeout"])
                return ExecExited(143, 15, timed_out=True, duration_ms=int((request.timeout_s or 0) * 1000))
            case "echo" | "err" | "cat" | "env" | "pwd" | "bytes" | "pieces":
                pass
            case _:
                return ExecExited(127, None, timed_out=False, duration_ms=3)
        return ExecExited(0, None, timed_out=False, duration_ms=3)

    async def _until_gone(self, machine: SimulatedMachine, released: asyncio.Event) -> None:
        waits = [asyncio.create_task(machine.gone.wait()), asyncio.create_task(released.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if machine.gone.is_set():
            raise GuestFault("The guest is lost")

    async def attach(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> AsyncIterator[ExecEvent]:
        self._machine(sandbox_id)
        raise ExecNotFound(f"There is no such command: {exec_id}")
        yield ExecStarted(pid=offset)

    async def signal(self, sandbox_id: SandboxId, exec_id: ExecId, signal: int) -> None:
        self._machine(sandbox_id)

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

    async def write_file(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        machine = self._machine(sandbox_id)
        if path in machine.directories:
            raise InvalidRequest(f"It is a directory: {path}")
        content = b"".join([chunk async for chunk in chunks])
        self._make_parents(machine, path)
        machine.files[path] = SimulatedFile(content, mode)
        return len(content)

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
        return self.machines[sandbox_id]

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
