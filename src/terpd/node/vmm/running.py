"""
A QEMU machine that runs: how it is stopped, saved, given another layer of its disk, and let run again.

The disk is a chain of block nodes, lowest first (`docs/adr/0003-saved-states.md`):

    t  the template's disk      l0, l1, …  frozen layers, read-only      l<n>  the top layer, which the guest writes to

The second disk is a node of its own, the slot `v`, on an empty one (`ve`) or on a volume (`vq`, its file is `vf`).

A new layer gets a higher number than all that are there, so the order of the numbers is the order of the chain. QEMU
is the only one that knows the chain for sure: it is asked, since another daemon may have made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from terpd.node.jail.process import Process
from terpd.node.vmm.base import Layer, VmmFailed
from terpd.node.vmm.qmp import Qmp

STATE_SET = 1  # fdset of the device state
TEMPLATE_NODE = "t"  # the block node under the lowest layer
BACKING_NAME = "base.qcow2"  # what the header of every layer says of the one below it, right or not
MAX_DEVICES_BYTES = 64 << 20  # of device state; a microvm has 9 KiB
SAVE_TIMEOUT_S = 30.0  # milliseconds; a host that swaps or starves may take very much longer

SLOT_NODE = "v"
EMPTY_SLOT: Mapping[str, Any] = {"driver": "null-co", "node-name": "ve", "size": 1 << 20, "read-zeroes": True}
VOLUME_SET = 4  # fdset of the volume's file

_FIRST_LAYER_SET = 16  # fdset of l0's file; l1's is the next
_JOB = "flatten"
_JOB_EVENT = "JOB_STATUS_CHANGE"
_JOB_LOOK_S = 5.0  # should an event be missed
_JOB_END_TIMEOUT_S = 30.0
_HANG_UP_TIMEOUT_S = 10.0
_LAYER = re.compile(r"([lf])([0-9]{1,6})")  # the format's node and the file's


def layer_options(number: int, below: str, *, frozen: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The options of the two block nodes of layer *number*, the file and the format; pure.

    Its file comes from the layer's fdset, its secret is the object `k<number>`.
    """
    common: dict[str, Any] = {"discard": "unmap", "cache": {"no-flush": True}, "read-only": frozen}
    file = {"driver": "file", "node-name": f"f{number}", "filename": f"/dev/fdset/{layer_set(number)}", **common}
    qcow2 = {
        "driver": "qcow2",
        "node-name": f"l{number}",
        "file": f"f{number}",
        "backing": below,
        "encrypt": {"format": "luks", "key-secret": f"k{number}"},
        **common,
    }
    return file, qcow2


def volume_options() -> tuple[dict[str, Any], dict[str, Any]]:
    """
    As `layer_options`, of a volume, whose secret is the object `kv`; pure. What a guest flushes reaches the disk: a
    volume outlives the host.
    """
    file = {"driver": "file", "node-name": "vf", "filename": f"/dev/fdset/{VOLUME_SET}", "discard": "unmap"}
    encrypt = {"format": "luks", "key-secret": "kv"}
    return file, {"driver": "qcow2", "node-name": "vq", "file": "vf", "encrypt": encrypt, "discard": "unmap"}


def slot_options(*, volume: bool) -> dict[str, Any]:
    """The options of the node that the second disk uses, on a volume or on nothing; pure."""
    return {"driver": "raw", "node-name": SLOT_NODE, "file": "vq" if volume else "ve", "discard": "unmap"}


def layer_set(number: int) -> int:
    """The fdset of a layer's file."""
    return _FIRST_LAYER_SET + number


@contextlib.contextmanager
def volume_file(path: Path) -> Iterator[int]:
    """The descriptor of a volume's file that QEMU needs."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def layer_files(path: Path, *, frozen: bool) -> Iterator[Sequence[int]]:
    """The descriptors of a layer's file that QEMU needs: a top layer will be frozen one day, and read then."""
    with contextlib.ExitStack() as stack:
        fds = []
        for access in (os.O_RDONLY,) if frozen else (os.O_RDWR, os.O_RDONLY):
            fds.append(os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW))
            stack.callback(os.close, fds[-1])
        yield fds


class QemuVm:
    """One QMP connection; QEMU accepts one at a time."""

    def __init__(self, process: Process, agent_socket: Path, qmp: Qmp) -> None:
        self.process = process
        self.agent_socket = agent_socket
        self._qmp = qmp

    async def save(self) -> None:
        await self._qmp.execute("stop")
        await self._save_devices(STATE_SET)
        self._qmp.execute_later("quit")
        await self.process.wait()
        await self._qmp.close()

    async def is_running(self) -> bool:
        status = await self._qmp.execute("query-status")
        return isinstance(status, dict) and status.get("running") is True

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + _HANG_UP_TIMEOUT_S, 0.0005
        while not await self._is_disconnected():
            if loop.time() > deadline:
                raise VmmFailed("QEMU did not notice that the agent's connection was closed")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02)
        await self._qmp.execute("stop", timeout_s=SAVE_TIMEOUT_S)  # it waits for the guest's I/O under way

    async def devices(self) -> bytes:
        with os.fdopen(os.memfd_create("devices", os.MFD_CLOEXEC), "rb") as memory:
            path = f"/proc/self/fd/{memory.fileno()}"
            write_only = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # QEMU refuses one that can be read as well
            try:
                await self._qmp.add_fd(write_only, STATE_SET)
            finally:
                os.close(write_only)
            try:
                await self._save_devices(STATE_SET)
            finally:
                self._qmp.execute_later("remove-fd", {"fdset-id": STATE_SET})
            # What a monitor that was taken over writes there is charged to its own cgroup.
            if os.fstat(memory.fileno()).st_size > MAX_DEVICES_BYTES:
                raise VmmFailed(f"QEMU wrote more than {MAX_DEVICES_BYTES} bytes of device state")
            return memory.read(MAX_DEVICES_BYTES)

    async def push_layer(self, layer: Layer) -> None:
        chain, number = await self._layers()
        with layer_files(layer.path, frozen=False) as fds:
            for fd in fds:
                await self._qmp.add_fd(fd, layer_set(number))
        file, qcow2 = layer_options(number, chain[-1], frozen=False)
        secret = {"qom-type": "secret", "id": f"k{number}", "data": layer.passphrase.decode()}
        commands = [
            self._qmp.execute_later("object-add", secret),
            self._qmp.execute_later("blockdev-add", file),
            self._qmp.execute_later("blockdev-add", {**qcow2, "backing": None}),
            self._qmp.execute_later("blockdev-snapshot", {"node": chain[-1], "overlay": f"l{number}"}),
        ]
        try:
            async with asyncio.timeout(SAVE_TIMEOUT_S):
                await asyncio.gather(*commands)
        except TimeoutError:
            raise VmmFailed(f"QEMU did not take another layer within {SAVE_TIMEOUT_S} s") from None
        except VmmFailed:
            await self._drop(number)
            raise

    async def insert_volume(self, volume: Layer) -> None:
        with volume_file(volume.path) as fd:
            await self._qmp.add_fd(fd, VOLUME_SET)
        file, qcow2 = volume_options()
        secret = {"qom-type": "secret", "id": "kv", "data": volume.passphrase.decode()}
        commands = [
            self._qmp.execute_later("object-add", secret),
            self._qmp.execute_later("blockdev-add", file),
            self._qmp.execute_later("blockdev-add", qcow2),
            self._qmp.execute_later("blockdev-reopen", {"options": [slot_options(volume=True)]}),
            self._qmp.execute_later("blockdev-del", {"node-name": EMPTY_SLOT["node-name"]}),
        ]
        try:
            async with asyncio.timeout(SAVE_TIMEOUT_S):
                await asyncio.gather(*commands)
        except TimeoutError:
            raise VmmFailed(f"QEMU did not take a volume within {SAVE_TIMEOUT_S} s") from None

    async def run(self) -> None:
        await self._qmp.execute("cont")

    async def flatten(self, below: int) -> None:
        chain, _ = await self._layers()
        if not 0 < below < len(chain) - 1:
            raise VmmFailed(f"of {len(chain) - 2} frozen layers, {below} cannot be flattened")
        base, dropped, top = chain[-2 - below], chain[-1 - below : -1], chain[-1]
        stream = {
            "job-id": _JOB,
            "device": top,
            "base-node": base,
            "backing-file": BACKING_NAME,
            "on-error": "report",
            "auto-finalize": True,
            "auto-dismiss": False,
        }
        try:
            await self._qmp.execute("block-stream", stream)
            await self._job_end(timeout_s=None)
        except asyncio.CancelledError:
            if not await asyncio.shield(self.end_jobs()):
                raise
        # It is done, be it that it was to be cancelled at that very moment: from here on there is no way back.
        forgetting = asyncio.ensure_future(self._forget(dropped))
        while not forgetting.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([forgetting])
        forgetting.result()

    async def end_jobs(self) -> bool:
        """
        End a flattening under way, of this daemon or of one before it, and return whether it had done its work.

        Raises:
            VmmFailed: It does not end.
        """
        if await self._job() is None:
            return False
        with contextlib.suppress(VmmFailed):  # it has concluded
            await self._qmp.execute("job-cancel", {"id": _JOB})
        try:
            await self._job_end(timeout_s=_JOB_END_TIMEOUT_S)
        except VmmFailed:  # cancelled, which is an error of the job's
            if await self._job() is not None:
                raise
            return False
        return True

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()
        await self._qmp.close()

    async def close(self) -> None:
        await self._qmp.close()

    # ---- inside ----------------------------------------------------------------------------------

    async def _save_devices(self, fdset: int) -> None:
        await self._qmp.execute(
            "xen-save-devices-state", {"filename": f"/dev/fdset/{fdset}", "live": False}, timeout_s=SAVE_TIMEOUT_S
        )

    async def _is_disconnected(self) -> bool:
        for chardev in _objects(await self._qmp.execute("query-chardev")):
            if chardev.get("label") == "a0":
                return str(chardev.get("filename")).startswith("disconnected:")
        raise VmmFailed("QEMU has no agent channel")

    async def _layers(self) -> tuple[Sequence[str], int]:
        """The chain, the template's node and the layers, lowest first; and the number for another layer."""
        nodes, devices = await asyncio.gather(
            self._qmp.execute("query-named-block-nodes", {"flat": True}), self._qmp.execute("query-block")
        )
        found = [_LAYER.fullmatch(str(node.get("node-name"))) for node in _objects(nodes)]
        # One whose snapshot never came to be counts too: its names are taken.
        taken = {(match[1], int(match[2])) for match in found if match}
        for device in _objects(devices):
            inserted = device.get("inserted")
            top = _LAYER.fullmatch(str(inserted.get("node-name"))) if isinstance(inserted, dict) else None
            if top and top[1] == "l":
                numbers = sorted(number for kind, number in taken if kind == "l" and number <= int(top[2]))
                return [TEMPLATE_NODE, *(f"l{number}" for number in numbers)], 1 + max(each for _, each in taken)
        raise VmmFailed("QEMU has no disk with layers")

    async def _drop(self, number: int) -> None:
        """Let QEMU forget a layer that it does not use. What it does use stays."""
        commands = [
            self._qmp.execute_later("blockdev-del", {"node-name": f"l{number}"}),
            self._qmp.execute_later("blockdev-del", {"node-name": f"f{number}"}),
            self._qmp.execute_later("object-del", {"id": f"k{number}"}),
            self._qmp.execute_later("remove-fd", {"fdset-id": layer_set(number)}),
        ]
        await asyncio.wait(commands, timeout=SAVE_TIMEOUT_S)

    async def _forget(self, layers: Sequence[str]) -> None:
        """Drop layers that were copied, the highest first. Raises VmmFailed if they are in the chain all the same."""
        for name in reversed(layers):
            await self._drop(int(name[1:]))
        if set(layers).intersection((await self._layers())[0]):
            raise VmmFailed("QEMU still needs layers that it has copied")

    async def _job(self) -> dict[str, Any] | None:
        jobs = _objects(await self._qmp.execute("query-jobs"))
        return next((job for job in jobs if job.get("id") == _JOB), None)

    async def _job_end(self, *, timeout_s: float | None) -> None:
        """Wait until the job has concluded and dismiss it. Raises VmmFailed when it failed, or at the time's end."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            self._qmp.forget(_JOB_EVENT)
            job = await self._job()
            if job is None:
                raise VmmFailed("QEMU lost its flattening")
            if job.get("status") == "concluded":
                break
            if deadline is not None and loop.time() > deadline:
                raise VmmFailed("QEMU does not end its flattening")
            with contextlib.suppress(VmmFailed):  # if it is gone, the next query tells
                await self._qmp.event(_JOB_EVENT, timeout_s=_JOB_LOOK_S)
        await self._qmp.execute("job-dismiss", {"id": _JOB})
        if error := job.get("error"):
            raise VmmFailed(f"QEMU could not flatten: {str(error)[:500]}")


def _objects(value: object) -> Sequence[dict[str, Any]]:
    """The objects of an array that QEMU sent, whatever else it is."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
