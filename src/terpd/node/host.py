"""The node port for the host this process runs on: machines by the supervisor, guest calls by each machine's client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from terpd.model.code import CodeContext, CodeEvent, CodeRequest, Language
from terpd.model.errors import GuestFault, StateConflict, Unavailable
from terpd.model.guest import (
    CommandInfo,
    ExecEvent,
    ExecRequest,
    Extracted,
    FileEvent,
    FileInfo,
    GuestStats,
    LogPage,
    OpenFile,
    PtySize,
)
from terpd.model.ids import ExecId, SandboxId, StateId, VolumeId
from terpd.model.network import EgressRecord, NetworkSpec
from terpd.model.ports import MachinePhase, MachineSpec, NodeCapacity, StateRef
from terpd.model.sandbox import Size
from terpd.model.snapshot import SavedState
from terpd.model.template import TemplateInfo
from terpd.model.usage import LiveUsage, MachineTotal
from terpd.model.volume import VolumeRef
from terpd.node import follow, reading
from terpd.node.admission import Admission
from terpd.node.artifacts.base import ArtifactStore
from terpd.node.code import Code
from terpd.node.guest import code_lines
from terpd.node.guest.client import GuestClient
from terpd.node.machine import Machine
from terpd.node.network.networks import Networks
from terpd.node.snapshot.template import TemplateSnapshots
from terpd.node.supervisor import Supervisor
from terpd.node.template.catalog import Catalog
from terpd.node.volumes.volumes import Volumes


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
        artifacts: ArtifactStore,
        networks: Networks,
        volumes: Volumes,
    ) -> None:
        self.node_id = node_id
        self._supervisor = supervisor
        self._catalog = catalog
        self._snapshots = snapshots
        self._admission = admission
        self._sizes = sizes
        self._artifacts = artifacts
        self._networks = networks
        self._code = Code()
        self._volumes = volumes

    async def start_machine(self, spec: MachineSpec) -> None:
        if spec.network is not None:
            spec = replace(spec, network=await self._with_package_hosts(spec.network, spec.template))
        await self._supervisor.start_machine(spec)

    async def stop_machine(self, sandbox_id: SandboxId) -> None:
        await self._supervisor.stop_machine(sandbox_id)

    async def pause_machine(self, sandbox_id: SandboxId, *, key: bytes, into: StateRef) -> SavedState:
        return await self._supervisor.capture_machine(sandbox_id, key=key, into=into, hold=True)

    async def snapshot_machine(
        self, sandbox_id: SandboxId, *, key: bytes, into: StateRef, withhold_secrets: bool
    ) -> SavedState:
        return await self._supervisor.capture_machine(
            sandbox_id, key=key, into=into, hold=False, withhold_secrets=withhold_secrets
        )

    async def continue_machine(self, sandbox_id: SandboxId) -> None:
        await self._supervisor.continue_machine(sandbox_id)

    async def set_network(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        machine = self._machine(sandbox_id)
        nic = await machine.nic()
        await nic.update(sandbox_id, await self._with_package_hosts(network, machine.record.template))

    def egress(self) -> AsyncIterator[Sequence[EgressRecord]]:
        return self._networks.records()

    async def dial(self, sandbox_id: SandboxId, port: int) -> socket.socket:
        machine = self._machine(sandbox_id)
        nic = await machine.nic()
        await machine.gate.passed()
        return await nic.dial(port)

    async def checkpoint_volume(self, volume: VolumeRef) -> None:
        await self._volumes.checkpoint(volume)

    async def remove_volume(self, volume_id: VolumeId) -> None:
        await self._volumes.remove(volume_id)

    async def collect_volumes(self, keep: Collection[VolumeId]) -> None:
        await self._volumes.collect(keep)

    def live_usage(self, sandbox_id: SandboxId) -> LiveUsage | None:
        machine = self._supervisor.find(sandbox_id)
        return None if machine is None or machine.held else self._supervisor.meter.live(machine.id)

    def usage_totals(self) -> Collection[MachineTotal]:
        return self._supervisor.meter.totals()

    async def has_state(self, state_id: StateId) -> bool:
        return await self._supervisor.has_state(state_id)

    async def collect(self, keep: Collection[StateId]) -> None:
        await self._supervisor.collect(keep)

    async def list_machines(self) -> Mapping[SandboxId, MachinePhase]:
        return self._supervisor.list_machines()

    def exits(self) -> AsyncIterator[SandboxId]:
        return self._supervisor.exits()

    async def capacity(self) -> NodeCapacity:
        return replace(
            self._admission.capacity(),
            machines_warm=self._supervisor.count_warm(),
            disk_free_bytes=self._artifacts.free_bytes(),
        )

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

    # ---- calls to a guest: held back while its machine is being saved -----------------------------

    def exec(self, sandbox_id: SandboxId, request: ExecRequest) -> AsyncIterator[ExecEvent]:
        machine = self._machine(sandbox_id)
        return follow.run(machine.gate, machine.link, request)

    def attach(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int) -> AsyncIterator[ExecEvent]:
        machine = self._machine(sandbox_id)
        return follow.attach(machine.gate, machine.link, exec_id, offset)

    async def signal(self, sandbox_id: SandboxId, exec_id: ExecId, signal: int) -> None:
        async with self._guest(sandbox_id) as guest:
            await guest.signal(exec_id, signal)

    async def list_commands(self, sandbox_id: SandboxId) -> Sequence[CommandInfo]:
        async with self._guest(sandbox_id) as guest:
            return await guest.list_commands()

    async def read_log(self, sandbox_id: SandboxId, exec_id: ExecId, offset: int, limit: int) -> LogPage:
        async with self._guest(sandbox_id) as guest:
            return await guest.read_log(exec_id, offset, limit)

    async def send_input(
        self, sandbox_id: SandboxId, exec_id: ExecId, data: bytes, *, offset: int | None = None, close: bool = False
    ) -> int:
        async with self._guest(sandbox_id) as guest:
            return await guest.send_input(exec_id, data, offset=offset, close=close)

    async def resize_pty(self, sandbox_id: SandboxId, exec_id: ExecId, size: PtySize) -> None:
        async with self._guest(sandbox_id) as guest:
            await guest.resize_pty(exec_id, size)

    async def change_env(self, sandbox_id: SandboxId, to_set: Mapping[str, str], to_unset: Collection[str]) -> None:
        machine = self._machine(sandbox_id)
        try:
            async with self._guest(sandbox_id) as guest:
                await guest.change_env(to_set, to_unset)
        finally:  # also if the answer was lost: it may have been done
            self._code.forget_environment(machine)

    async def env_names(self, sandbox_id: SandboxId) -> Sequence[str]:
        async with self._guest(sandbox_id) as guest:
            return await guest.env_names()

    def run_code(self, sandbox_id: SandboxId, request: CodeRequest) -> AsyncIterator[CodeEvent]:
        return self._code.run(self._machine(sandbox_id), request)

    async def list_code_contexts(self, sandbox_id: SandboxId) -> Sequence[CodeContext]:
        return code_lines.contexts((await self._ask_kernels(sandbox_id, {"op": "list"})).get("contexts"))

    async def create_code_context(self, sandbox_id: SandboxId, language: Language, cwd: str) -> CodeContext:
        call = {"op": "create", "language": str(language), "cwd": cwd}
        return code_lines.context((await self._ask_kernels(sandbox_id, call)).get("context"))

    async def restart_code_context(self, sandbox_id: SandboxId, context_id: str) -> CodeContext:
        answer = await self._ask_kernels(sandbox_id, {"op": "restart", "context": context_id})
        return code_lines.context(answer.get("context"))

    async def remove_code_context(self, sandbox_id: SandboxId, context_id: str) -> None:
        await self._ask_kernels(sandbox_id, {"op": "remove", "context": context_id})

    async def read_file(self, sandbox_id: SandboxId, path: str, *, limit: int | None = None) -> AsyncIterator[bytes]:
        async with self._guest(sandbox_id) as guest:
            async for chunk in guest.read_file(path, limit=limit):
                yield chunk

    async def open_file(
        self, sandbox_id: SandboxId, path: str, *, offset: int = 0, limit: int | None = None
    ) -> OpenFile:
        machine = self._machine(sandbox_id)
        return await reading.open_file(machine.gate, machine.link, path, offset=offset, limit=limit)

    async def write_file(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        async with self._guest(sandbox_id) as guest:
            return await guest.write_file(path, chunks, mode)

    def watch_files(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> AsyncIterator[FileEvent]:
        machine = self._machine(sandbox_id)
        return reading.watch_files(machine.gate, machine.link, path, recursive=recursive)

    def read_archive(self, sandbox_id: SandboxId, path: str) -> AsyncIterator[bytes]:
        machine = self._machine(sandbox_id)
        return reading.read_archive(machine.gate, machine.link, path)

    async def write_archive(self, sandbox_id: SandboxId, path: str, chunks: AsyncIterator[bytes]) -> Extracted:
        async with self._guest(sandbox_id) as guest:
            return await guest.write_archive(path, chunks)

    async def list_files(self, sandbox_id: SandboxId, path: str) -> Sequence[FileInfo]:
        async with self._guest(sandbox_id) as guest:
            return await guest.list_files(path)

    async def stat_file(self, sandbox_id: SandboxId, path: str) -> FileInfo | None:
        async with self._guest(sandbox_id) as guest:
            return await guest.stat_file(path)

    async def make_directory(self, sandbox_id: SandboxId, path: str, *, parents: bool) -> None:
        async with self._guest(sandbox_id) as guest:
            await guest.make_directory(path, parents=parents)

    async def move_file(self, sandbox_id: SandboxId, source: str, destination: str) -> None:
        async with self._guest(sandbox_id) as guest:
            await guest.move_file(source, destination)

    async def remove_file(self, sandbox_id: SandboxId, path: str, *, recursive: bool) -> None:
        async with self._guest(sandbox_id) as guest:
            await guest.remove_file(path, recursive=recursive)

    async def stats(self, sandbox_id: SandboxId) -> GuestStats:
        async with self._guest(sandbox_id) as guest:
            return await guest.stats()

    async def _ask_kernels(self, sandbox_id: SandboxId, call: Mapping[str, str]) -> Mapping[str, object]:
        machine = self._machine(sandbox_id)
        async with self._guest(sandbox_id) as guest:
            return await self._code.ask(machine, guest, call)

    async def _with_package_hosts(self, network: NetworkSpec, template: str) -> NetworkSpec:
        """*network*, and what the template's own package clients fetch from; nothing of a template that is gone."""
        image = await asyncio.to_thread(self._catalog.find, template)
        return network if image is None else replace(network, package_hosts=image.package_hosts)

    @asynccontextmanager
    async def _guest(self, sandbox_id: SandboxId) -> AsyncIterator[GuestClient]:
        """For one call."""
        machine = self._machine(sandbox_id)
        async with machine.gate.passing():
            try:
                yield machine.guest
            except GuestFault as fault:
                if machine.gate.is_open:
                    raise
                raise Unavailable(
                    "The sandbox was saved while this was under way, and it took too long to wait for it; try again",
                    context=fault.context,
                ) from fault

    def _machine(self, sandbox_id: SandboxId) -> Machine:
        machine = self._supervisor.find(sandbox_id)
        if machine is None:
            raise StateConflict(f"Sandbox {sandbox_id} has no running machine; create a new one")
        return machine
