"""The node port for the host this process runs on: machines by the supervisor, guest calls by each machine's client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from terpd.model.errors import StateConflict
from terpd.model.guest import ExecEvent, ExecRequest, FileInfo, GuestStats
from terpd.model.ids import ExecId, SandboxId
from terpd.model.ports import MachineSpec, NodeCapacity
from terpd.model.sandbox import Size
from terpd.model.template import TemplateInfo
from terpd.node.admission import Admission
from terpd.node.guest.client import GuestClient
from terpd.node.snapshot.template import TemplateSnapshots
from terpd.node.supervisor import Supervisor
from terpd.node.template.catalog import Catalog


class Host:
    """This host as a `terpd.model.ports.Node`."""

    def __init__(
        self,
        node_id: str,
        supervisor: Supervisor,
        catalog: Catalog,
        snapshots: TemplateSnapshots,
        admission: Admission,
        sizes: Mapping[str, Size],
    ) -> None:
        self.node_id = node_id
        self._supervisor = supervisor
        self._catalog = catalog
        self._snapshots = snapshots
        self._admission = admission
        self._sizes = sizes

    async def start_machine(self, spec: MachineSpec) -> None:
        await self._supervisor.start_machine(spec)

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        await self._supervisor.stop_machine(sandbox_id)

    async def list_machines(self) -> Sequence[SandboxId]:
        return self._supervisor.list_machines()

    def exits(self) -> AsyncIterator[SandboxId]:
        return self._supervisor.exits()

    async def capacity(self) -> NodeCapacity:
        return replace(self._admission.capacity(), machines_warm=self._supervisor.count_warm())

    async def templates(self) -> Sequence[TemplateInfo]:
        def look() -> list[TemplateInfo]:
            return [
                TemplateInfo(
                    name=image.template,
                    description=image.description,
                    digest=image.digest,
                    size_bytes=image.size_bytes,
                    warm_sizes=[name for name, size in self._sizes.items() if self._snapshots.find(image, size)],
                )
                for image in self._catalog.list()
            ]

        return await asyncio.to_thread(look)

    def exec(self, sandbox_id: SandboxId, request: ExecRequest) -> AsyncIterator[ExecEvent]:
        return self._guest(sandbox_id).exec(request)

    def attach(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> AsyncIterator[ExecEvent]:
        return self._guest(sandbox_id).attach(exec_id, offset)

    async def signal(self, sandbox_id: SandboxId, exec_id: ExecId, signal: int) -> None:
        await self._guest(sandbox_id).signal(exec_id, signal)

    def read_file(self, sandbox_id: SandboxId, path: str, *, limit: int | None = None) -> AsyncIterator[bytes]:
        return self._guest(sandbox_id).read_file(path, limit=limit)

    async def write_file(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        return await self._guest(sandbox_id).write_file(path, chunks, mode)

    async def list_files(self, sandbox_id: SandboxId, path: str) -> Sequence[FileInfo]:
        return await self._guest(sandbox_id).list_files(path)

    async def stat_file(self, sandbox_id: SandboxId, path: str) -> FileInfo | None:
        return await self._guest(sandbox_id).stat_file(path)

    async def make_directory(self, sandbox_id: SandboxId, path: str, *, parents: bool) -> None:
        await self._guest(sandbox_id).make_directory(path, parents=parents)

    async def move_file(self, sandbox_id: SandboxId, source: str, destination: str) -> None:
        await self._guest(sandbox_id).move_file(source, destination)

    async def remove_file(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> None:
        await self._guest(sandbox_id).remove_file(path, recursive=recursive)

    async def stats(self, sandbox_id: SandboxId) -> GuestStats:
        return await self._guest(sandbox_id).stats()

    def _guest(self, sandbox_id: SandboxId) -> GuestClient:
        machine = self._supervisor.find(sandbox_id)
        if machine is None:
            raise StateConflict(f"Sandbox {sandbox_id} has no running machine; create a new one")
        return machine.guest
