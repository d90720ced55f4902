"""A node with real guests in a world of servers (world.py): no packet of theirs leaves the host."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from support.server import TEMPLATES_HOME
from support.world import NAME_SERVER, World
from terpd.daemon.config import load
from terpd.daemon.node import open_node
from terpd.model.guest import ExecExited, ExecOutput, ExecRequest
from terpd.model.ids import SandboxId, new_exec_id, new_sandbox_id
from terpd.model.network import Decision, EgressRecord, NetworkSpec
from terpd.model.ports import KEY_BYTES, MachineSpec, StateRef
from terpd.model.sandbox import Size
from terpd.node.host import Host
from terpd.node.supervisor import Supervisor

KEY = bytes(range(KEY_BYTES))  # one that is found if it is anywhere
TIMEOUT_S = 120.0
_SMALL = Size("small", 1, 1024)
_FIRST_UID = 866_000


@dataclass
class Lab:
    """A node, the world that its guests may reach, what its servers were sent, and what the gateway recorded."""

    directory: Path
    world: World
    sent: list[str] = field(default_factory=list)
    records: list[EgressRecord] = field(default_factory=list)

    async def open(self) -> None:
        """Begin the life of a daemon."""
        settings = {
            "home": Path(os.environ.get("TERP_HOME", TEMPLATES_HOME)),
            "data_dir": self.directory,
            "resolvers": (NAME_SERVER,),
            "uid_first": _FIRST_UID,
            "uid_count": 100,
        }
        self.node, self.supervisor = await _opened(settings)
        self._taking = asyncio.create_task(self._take(self.node))

    async def close(self, *, stop_machines: bool) -> None:
        await self.supervisor.close(stop_machines=stop_machines)
        await self._taking  # ends with the gateway, behind the last record

    async def start(
        self,
        network: NetworkSpec | None,
        *,
        sandbox_id: SandboxId | None = None,
        template: str = "debian-12",
        state: StateRef | None = None,
        fork: bool = False,
    ) -> SandboxId:
        sandbox_id = sandbox_id or new_sandbox_id()
        await self.node.start_machine(MachineSpec(sandbox_id, template, _SMALL, KEY, {}, state, fork, network))
        return sandbox_id

    async def run(self, sandbox_id: SandboxId, command: str) -> tuple[int | None, str]:
        """Its exit code and all that it wrote."""
        request = ExecRequest(exec_id=new_exec_id(), command=f"{{ {command}\n}} 2>&1", timeout_s=TIMEOUT_S)
        output, code = b"", None
        async for event in self.node.exec(sandbox_id, request):
            if isinstance(event, ExecOutput):
                output += event.data
            elif isinstance(event, ExecExited):
                code = event.exit_code
        return code, output.decode(errors="replace").strip()

    async def fetch(self, sandbox_id: SandboxId, url: str = "http://open.example/") -> str:
        """What the guest gets there; the last word of curl's complaint if it does not."""
        _, said = await self.run(sandbox_id, f"curl --fail --silent --show-error --insecure --max-time 30 {url}")
        return said

    def decisions(self, sandbox_id: SandboxId) -> list[tuple[str | None, Decision]]:
        return [(record.name, record.decision) for record in self.records if record.sandbox_id == sandbox_id]

    async def _take(self, node: Host) -> None:
        async for batch in node.egress():
            self.records.extend(batch)


async def _opened(settings: dict[str, object]) -> tuple[Host, Supervisor]:
    node, supervisor = await open_node(load(environ={}, flags=settings))
    await supervisor.open()
    return node, supervisor
