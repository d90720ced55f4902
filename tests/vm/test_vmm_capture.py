"""Machines stopped, saved, forked and flattened by the port for monitors: real guests, encrypted disks, real memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from terpd.daemon.config import load
from terpd.daemon.node import VAULT, open_workshop
from terpd.model.errors import StateDamaged
from terpd.model.guest import ExecExited, ExecOutput, ExecRequest
from terpd.model.ids import new_exec_id
from terpd.node.disk import overlay
from terpd.node.guest.client import GuestClient, WakeUp
from terpd.node.jail.process import Process, become_parent_of_orphans
from terpd.node.snapshot.memory import MemoryCapture, MemoryLoad
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm.base import Layer, Placement, RestoreSpec, VmmFailed
from terpd.node.vmm.qemu import Qemu
from terpd.node.vmm.running import QemuVm

pytestmark = pytest.mark.vm

_INSTANCE = f"v{os.getpid():x}"
_SHOWN = Path(f"/dev/shm/terp-{_INSTANCE}")
_FIRST_UID = 865_100
_KEY = bytes(32)
_TIMEOUT_S = 120.0


@dataclass
class Lab:
    """Machines of one template, all of which end with the test."""

    vmm: Qemu
    template: TemplateSnapshot
    directory: Path
    vms: list[QemuVm] = field(default_factory=list)

    async def layer(self) -> Layer:
        secret = secrets.token_bytes(32)
        path = self.directory / f"{secrets.token_hex(4)}.qcow2"
        await overlay.create(VAULT, self.template.empty_overlay, path, secret=secret, uid=0)
        return Layer(path, secret)

    async def start(
        self,
        layers: Sequence[Layer],
        devices: bytes | None = None,
        inject: Callable[[Process], Awaitable[None]] | None = None,
    ) -> QemuVm:
        name = f"m_{len(self.vms)}"
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        spec = RestoreSpec(
            placement=Placement(name, directory, _FIRST_UID + len(self.vms), None),
            hardware=self.template.hardware,
            memory_file=self.template.memory,
            devices=devices or self.template.devices,
            layers=layers,
            disk_backing=self.template.disk_backing,
            inject=inject,
        )
        self.vms.append(await self.vmm.restore(spec))
        return self.vms[-1]

    async def capture(self, vm: QemuVm) -> tuple[bytes, Path]:
        """Save the devices and the memory of a stopped machine."""
        target = self.directory / "memory"
        target.unlink(missing_ok=True)
        async with MemoryCapture.open(
            VAULT,
            process=vm.process,
            base=self.template.memory,
            target=target,
            key=_KEY,
            context="test",
            buffer_bytes=64 << 20,
        ) as memory:
            await memory.copy()
            await memory.finish()
        return await vm.devices(), target

    async def fork(self, layers: Sequence[Layer], devices: bytes, memory: Path) -> QemuVm:
        async with MemoryLoad.open(VAULT, source=memory, base=self.template.memory, key=_KEY, context="test") as load_:
            return await self.start(layers, devices, load_.inject)

    def check(self, layers: Sequence[Layer], path: str) -> str:
        """What the file system in these layers holds at *path*, after it was found in order. Works on copies."""
        for name, target in self.template.disk_backing.items():
            with contextlib.suppress(FileExistsError):
                (self.directory / name).symlink_to(target)
        raw, objects = self.directory / "disk.raw", []
        options = f"driver=qcow2,file.driver=file,file.filename={self.directory / overlay.BASE_NAME}"
        for number, layer in enumerate(layers):
            copy, key = self.directory / f"copy{number}.qcow2", self.directory / f"key{number}"
            shutil.copyfile(layer.path, copy)
            key.write_bytes(layer.passphrase)
            objects += ["--object", f"secret,id=k{number},file={key}"]
            below = ",".join(f"backing.{option}" for option in options.split(","))
            options = f"driver=qcow2,encrypt.format=luks,encrypt.key-secret=k{number},"
            options += f"file.driver=file,file.filename={copy},{below}"
        _run("qemu-img", "convert", *objects, "--image-opts", options, "-O", "raw", raw)
        subprocess.run(
            ["e2fsck", "-fy", raw], check=False, capture_output=True
        )  # the journal, and counts of free blocks
        _run("e2fsck", "-fn", raw)
        content = _run("debugfs", "-R", f"cat {path}", raw)
        raw.unlink()
        return content


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    become_parent_of_orphans()
    workshop = await open_workshop(load(flags={}))
    lab = Lab(workshop.vmm(instance=_INSTANCE), await workshop.snapshot("debian-12", "small"), tmp_path)
    try:
        yield lab
    finally:
        for vm in lab.vms:
            await vm.kill()
        await lab.vmm.sweep()
        assert lab.vmm.running() == []
        assert not _secrets_are_shown()


@contextlib.asynccontextmanager
async def awake(vm: QemuVm, name: str) -> AsyncIterator[GuestClient]:
    """The guest, awake; frozen and left alone afterwards."""
    wake = WakeUp(secrets.token_bytes(64), time.time_ns(), name, secrets.token_bytes(16))
    guest = await GuestClient.connect_and_wake(vm.agent_socket, wake, fresh=True, timeout_s=_TIMEOUT_S)
    try:
        yield guest
        await guest.freeze(drop_page_cache=False)
    finally:
        await guest.close()


async def run(guest: GuestClient, command: str) -> str:
    """Its output; the command must succeed."""
    output = b""
    async for event in guest.exec(ExecRequest(exec_id=new_exec_id(), command=command, timeout_s=_TIMEOUT_S)):
        if isinstance(event, ExecOutput):
            output += event.data
        elif isinstance(event, ExecExited):
            assert event.exit_code == 0, (command, output)
    return output.decode()


async def test_a_machine_and_its_fork_go_their_own_ways(lab: Lab) -> None:
    """Both have what was before, in memory and on disk, and neither has what the other did after."""
    frozen, own, childs = [await lab.layer() for _ in range(3)]
    parent = await lab.start([frozen])
    async with awake(parent, "parent") as guest:
        await run(guest, "echo before > /root/log; seq 500000 > /dev/shm/numbers; sync; echo unsynced >> /root/log")
    await parent.stop()
    devices, memory = await lab.capture(parent)
    await parent.push_layer(own)
    digest = hashlib.sha256(frozen.path.read_bytes()).digest()
    await parent.run()
    async with awake(parent, "parent") as guest:
        child = await lab.fork([frozen, childs], devices, memory)
        await run(guest, "echo parent >> /root/log; rm /dev/shm/numbers; sync")
        async with awake(child, "child") as other:
            assert await run(other, "cat /root/log; hostname") == "before\nunsynced\nchild\n"
            assert await run(other, "seq 500000 | cmp - /dev/shm/numbers && echo child >> /root/log; sync") == ""
        assert await run(guest, "cat /root/log; ls /dev/shm; hostname") == "before\nunsynced\nparent\nparent\n"
    await child.stop()
    await parent.stop()

    assert hashlib.sha256(frozen.path.read_bytes()).digest() == digest
    assert lab.check([frozen, own], "/root/log") == "before\nunsynced\nparent\n"
    assert lab.check([frozen, childs], "/root/log") == "before\nunsynced\nchild\n"


async def test_what_a_stopped_guest_has_written_is_in_the_file(lab: Lab) -> None:
    """Its metadata too: the layer can be linked or copied as it lies there."""
    layer = await lab.layer()
    vm = await lab.start([layer])
    async with awake(vm, "one") as guest:
        await run(guest, "seq 300000 > /root/numbers; sync")
    await vm.stop()
    await vm.stop()

    assert not await vm.is_running()
    assert lab.check([layer], "/root/numbers") == "".join(f"{number}\n" for number in range(1, 300_001))
    await vm.run()
    await vm.run()
    async with awake(vm, "one") as guest:
        assert await run(guest, "tail -n 1 /root/numbers") == "300000\n"


async def test_a_chain_is_flattened_under_a_guest_that_writes(lab: Lab) -> None:
    """Also by a daemon that came later; what was copied can be removed, and the machine captured again."""
    layers = [await lab.layer()]
    vm = await lab.start(layers)
    sums = ""
    for number in range(4):
        async with awake(vm, "one") as guest:
            sums = await run(guest, f"head -c 20M /dev/urandom > /root/f{number}; sync; md5sum /root/f*")
        await vm.stop()
        layers.append(await lab.layer())
        await vm.push_layer(layers[-1])
        await vm.run()
    await vm.close()
    vm = lab.vms[0] = await lab.vmm.adopt(
        Placement("m_0", lab.directory / "m_0", _FIRST_UID, None), Process.of(vm.process.pid)
    )

    async with awake(vm, "one") as guest:
        writing = asyncio.create_task(run(guest, "seq 100000 > /root/during; sync"))
        await vm.flatten(3)
        await writing
        for layer in layers[1:4]:
            layer.path.unlink()
        del layers[1:4]
        assert await run(guest, "echo 3 > /proc/sys/vm/drop_caches; md5sum /root/f*") == sums
    with pytest.raises(VmmFailed, match="cannot be flattened"):
        await vm.flatten(2)
    await vm.stop()
    layers.append(await lab.layer())
    await vm.push_layer(layers[-1])
    await vm.run()
    async with awake(vm, "one") as guest:
        await run(guest, "md5sum -c - <<'EOF'\n" + sums + "EOF\necho done > /root/log; sync")
    await vm.stop()

    assert lab.check(layers, "/root/log") == "done\n"
    assert lab.check(layers, "/root/during") == "".join(f"{number}\n" for number in range(1, 100_001))


async def test_a_flattening_that_is_cancelled_changes_nothing(lab: Lab) -> None:
    """Nor one whose daemon died: the next daemon ends it, and may begin anew."""
    layers = [await lab.layer(), await lab.layer()]
    vm = await lab.start(layers[:1])
    async with awake(vm, "one") as guest:
        sums = await run(guest, "head -c 40M /dev/urandom > /root/f; sync; md5sum /root/f")
    await vm.stop()
    await vm.push_layer(layers[1])
    await vm.run()
    flattening = asyncio.create_task(vm.flatten(1))
    while not await vm._job():  # noqa: ASYNC110  it begins inside QEMU
        await asyncio.sleep(0)
    flattening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flattening

    assert await vm._job() is None
    slow = {"job-id": "flatten", "device": "l1", "base-node": "t", "speed": 65_536, "auto-dismiss": False}
    await vm._qmp.execute("block-stream", slow)
    await vm.close()
    vm = lab.vms[0] = await lab.vmm.adopt(
        Placement("m_0", lab.directory / "m_0", _FIRST_UID, None), Process.of(vm.process.pid)
    )
    assert await vm._job() is None
    await vm.flatten(1)
    layers[0].path.unlink()
    async with awake(vm, "one") as guest:
        assert await run(guest, "echo 3 > /proc/sys/vm/drop_caches; md5sum /root/f") == sums


async def test_adopting_leaves_a_stopped_machine_stopped(lab: Lab) -> None:
    """Only who knows why it was stopped can tell whether it may run."""
    vm = await lab.start([await lab.layer()])
    await vm.stop()
    await vm.close()
    vm = lab.vms[0] = await lab.vmm.adopt(
        Placement("m_0", lab.directory / "m_0", _FIRST_UID, None), Process.of(vm.process.pid)
    )

    assert not await vm.is_running()
    await vm.run()
    async with awake(vm, "one") as guest:
        assert await run(guest, "echo runs") == "runs\n"


async def test_a_chain_of_sixteen(lab: Lab) -> None:
    """The longest there is: it restores, and its secrets are in no file and on no command line."""
    layers = [await lab.layer() for _ in range(16)]
    vm = await lab.start(layers)
    async with awake(vm, "one") as guest:
        assert await run(guest, "echo written > /root/f; sync; cat /root/f") == "written\n"

    assert not _secrets_are_shown()
    process = Path(f"/proc/{vm.process.pid}")
    shown = [process / f"root/m/k{number}" for number in range(16)]
    assert [path.read_bytes() for path in shown] == [b""] * 16
    told = (process / "cmdline").read_bytes()
    assert not any(layer.passphrase in told or layer.secret in told for layer in layers)


async def test_a_wrong_secret_does_not_open_a_disk(lab: Lab) -> None:
    """And nothing is left of the attempt."""
    layer = await lab.layer()

    with pytest.raises(VmmFailed, match="Invalid password"):
        await lab.start([Layer(layer.path, bytes(32))])


@pytest.mark.parametrize("fault", [StateDamaged("bad page"), OSError("no such process")], ids=repr)
async def test_pages_that_cannot_be_written_end_the_start(lab: Lab, fault: Exception) -> None:
    """Errors for the user pass as they are; the monitor is gone, and its secrets were before the pages came."""
    injected: list[Process] = []

    async def inject(process: Process) -> None:
        injected.append(process)
        assert not _secrets_are_shown()
        raise fault

    with pytest.raises(StateDamaged if isinstance(fault, StateDamaged) else VmmFailed, match=str(fault)):
        await lab.start([await lab.layer()], inject=inject)

    assert not injected[0].alive()


def _secrets_are_shown() -> bool:
    return _SHOWN.exists()


def _run(*argv: str | Path) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, done
    return done.stdout
