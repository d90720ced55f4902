"""The measurements, one method a row or two; each runs its floor and its subject in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from terp import AsyncSandbox, AsyncTerp, AsyncVolume

from bench import raw_channel
from bench.bare import bare_clone, full_save_ms, private_mib
from bench.rows import Row, at_least, at_most
from bench.server import Server, server
from bench.states import States
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm.definition import Boot

FILE_MIB = 64
PRESIGNED_MIB = 100
CREATES = 20
CLIENTS = 4
WARM = 3  # machines waiting in the pool when one is claimed
CLONES = 6  # whose memory is compared
FORKS_MEMORY_MIB = 64 * 1024  # admitted for 20 children of 1 GiB each, which touch a tenth of it
SETTLE_S = 3.0  # before memory is read: a guest just woken is still busy


async def milliseconds(act: Awaitable[object]) -> float:
    began = time.monotonic()
    await act
    return (time.monotonic() - began) * 1000


class Bench:
    """
    Args:
        accel: Value of -accel, for the bare clones.
        boot: How the template boots, for the raw channel.
        rounds: Pairs of floor and subject for each ratio of times.
    """

    def __init__(self, snapshot: TemplateSnapshot, accel: str, boot: Boot, template: str, rounds: int) -> None:
        self._snapshot = snapshot
        self._accel = accel
        self._boot = boot
        self._template = template
        self._rounds = rounds

    async def run(self) -> list[Row]:
        rows: list[Row] = []
        with server() as cold:
            async with self._client(cold) as client:
                rows.append(await self._create(client))
                rows.append(await self._exec(client))
                rows.append(await self._throughput(client))
                rows.append(await self._memory(client, cold))
                rows += await self._files(client)
                rows.append(await self._create_with_volume(client))
        with server(memory_cap_mib=FORKS_MEMORY_MIB) as roomy:
            async with self._client(roomy) as client:
                rows += await self._states(client)
        with server(pool=f"{self._template}/small={WARM}") as warm:
            async with self._client(warm) as client:
                rows.insert(1, await self._create_from_pool(client, warm))
        return rows

    def _client(self, at: Server) -> AsyncTerp:
        return AsyncTerp(api_key=at.api_key, base_url=at.url)

    async def _new(self, client: AsyncTerp) -> AsyncSandbox:
        return await AsyncSandbox.create(template=self._template, client=client)

    async def _bare_ms(self) -> float:
        async with bare_clone(self._snapshot, self._accel) as clone:
            return clone.to_answer_s * 1000

    async def _create(self, client: AsyncTerp) -> Row:
        floors, values = [], []
        for number in range(self._rounds + 1):
            floor = await self._bare_ms()
            began = time.monotonic()
            sandbox = await self._new(client)
            value = (time.monotonic() - began) * 1000
            await sandbox.terminate()
            if number:  # the first of each warms the page cache
                floors.append(floor)
                values.append(value)
        return at_most(1.3, "create, no pool ÷ bare QEMU restore to first answer", values, floors, "ms")

    async def _create_with_volume(self, client: AsyncTerp) -> Row:
        """The guest takes a device anew and mounts a file system: kernel code that every new machine translates."""
        volume = await AsyncVolume.create("bench", 0.5, client=client)
        floors, values = [], []
        for number in range(self._rounds + 1):
            began = time.monotonic()
            without = await self._new(client)
            floor = (time.monotonic() - began) * 1000
            await without.terminate()
            began = time.monotonic()
            sandbox = await AsyncSandbox.create(template=self._template, volume=volume, client=client)
            value = (time.monotonic() - began) * 1000
            await sandbox.terminate()
            if number:  # the first one makes the volume's disk
                floors.append(floor)
                values.append(value)
        await volume.delete()
        return at_most(3, "create with a volume ÷ create without", values, floors, "ms")

    async def _create_from_pool(self, client: AsyncTerp, at: Server) -> Row:
        values, floors = [], []
        async with bare_clone(self._snapshot, self._accel) as clone:
            await clone.guest.ping()
            for _ in range(self._rounds):
                await self._await_pool(at)
                floors.append(await milliseconds(clone.guest.ping()))
                began = time.monotonic()
                sandbox = await self._new(client)
                values.append((time.monotonic() - began) * 1000)
                await sandbox.terminate()
        return at_most(5, "create from pool ÷ agent round trip", values, floors, "ms")

    @staticmethod
    async def _await_pool(at: Server) -> None:
        """Wait until the pool is full, so that nothing is being started meanwhile."""
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {at.api_key}"}) as http:
            while True:
                text = (await http.get(f"{at.url}/metrics")).text
                if f"terp_node_machines_warm {WARM}.0" in text.splitlines():
                    return
                await asyncio.sleep(0.1)

    async def _exec(self, client: AsyncTerp) -> Row:
        """Each call against what the agent itself measured of it, spawn to reap."""
        values, floors = [], []
        sandbox = await self._new(client)
        for number in range(self._rounds + 3):
            began = time.monotonic()
            result = await sandbox.exec("true")
            value = (time.monotonic() - began) * 1000
            if number >= 3:
                values.append(value)
                floors.append(float(result.duration_ms))
        await sandbox.terminate()
        return at_most(1.5, "exec `true` over REST ÷ the agent's own fork+exec", values, floors, "ms")

    async def _throughput(self, client: AsyncTerp) -> Row:
        async def bare() -> None:
            await self._bare_ms()

        async def full() -> None:
            sandbox = await self._new(client)
            await sandbox.terminate()

        floor, value = await self._per_second(bare), await self._per_second(full)
        return at_least(1 / 1.3, f"{CREATES} creates from {CLIENTS} clients ÷ bare restores", value, floor, "/s")

    @staticmethod
    async def _per_second(act: Callable[[], Awaitable[None]]) -> float:
        async def client() -> None:
            for _ in range(CREATES // CLIENTS):
                await act()

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return CREATES / (time.monotonic() - began)

    async def _memory(self, client: AsyncTerp, at: Server) -> Row:
        async with AsyncExitStack() as stack:
            clones = [await stack.enter_async_context(bare_clone(self._snapshot, self._accel)) for _ in range(CLONES)]
            await asyncio.sleep(SETTLE_S)
            floors = [private_mib(clone.process.pid) for clone in clones]
        before = private_mib(at.pid)
        sandboxes = [await self._new(client) for _ in range(CLONES)]
        await asyncio.sleep(SETTLE_S)
        grown = max(0.0, private_mib(at.pid) - before) / CLONES
        values = [private_mib(pid) + grown for pid in _monitors()]
        await asyncio.gather(*(sandbox.terminate() for sandbox in sandboxes))
        return at_most(1.2, "idle memory per sandbox, daemon's share included ÷ bare clone", values, floors, "MiB")

    async def _files(self, client: AsyncTerp) -> list[Row]:
        raw = await raw_channel.measure(self._snapshot, self._accel, self._boot, FILE_MIB)
        sandbox = await self._new(client)
        data = bytes(FILE_MIB << 20)
        await sandbox.files.write("/tmp/warm", data[: 1 << 20])
        await sandbox.files.read_bytes("/tmp/warm")
        write_ms = await milliseconds(sandbox.files.write("/tmp/file", data))
        read_ms = await milliseconds(sandbox.files.read_bytes("/tmp/file"))
        up = await sandbox.files.presign_upload("/tmp/presigned")
        down = await sandbox.files.presign_download("/tmp/presigned")
        async with httpx.AsyncClient(trust_env=False, timeout=600) as anyone:
            signed_write_ms = await milliseconds(_put(anyone, up.url, PRESIGNED_MIB))
            signed_read_ms = await milliseconds(_get(anyone, down.url, PRESIGNED_MIB))
        await sandbox.terminate()
        write, read = (FILE_MIB / ms * 1000 for ms in (write_ms, read_ms))
        signed_write, signed_read = (PRESIGNED_MIB / ms * 1000 for ms in (signed_write_ms, signed_read_ms))
        return [
            at_least(0.7, "presigned upload ÷ raw channel", signed_write, raw.to_guest_mib_s, "MiB/s"),
            at_least(0.7, "presigned download ÷ raw channel", signed_read, raw.from_guest_mib_s, "MiB/s"),
            at_least(0.7, "file write ÷ raw channel", write, raw.to_guest_mib_s, "MiB/s"),
            at_least(0.7, "file read ÷ raw channel", read, raw.from_guest_mib_s, "MiB/s"),
        ]

    async def _states(self, client: AsyncTerp) -> list[Row]:
        states = States(client, self._template, self._rounds, bare_ms=self._bare_ms, monitors=_monitors)
        return await states.run(await full_save_ms(self._snapshot, self._accel))


async def _put(anyone: httpx.AsyncClient, url: str, mib: int) -> None:
    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(mib):
            yield bytes(1 << 20)

    answer = await anyone.put(url, content=zeros(), headers={"Content-Length": str(mib << 20)})
    answer.raise_for_status()


async def _get(anyone: httpx.AsyncClient, url: str, mib: int) -> None:
    received = 0
    async with anyone.stream("GET", url) as answer:
        answer.raise_for_status()
        async for chunk in answer.aiter_raw():
            received += len(chunk)
    if received != mib << 20:
        raise RuntimeError(f"{received} bytes came")


def _monitors() -> list[int]:
    """The pids of all machines of terpd on this host."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"qemu-system" in command.split(b"\0")[0] and b"\0terp-" in command and b"terp-bench" not in command:
                found.append(int(entry.name))
    return found
