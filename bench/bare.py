"""
The floor: a QEMU that restores the same template with no daemon, no jail, no cgroup and no record around it.

Only what physics asks for is here: an encrypted overlay, two sockets, one exec, the device state, the guest's answer.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from terpd.daemon.node import VAULT
from terpd.node.disk import overlay
from terpd.node.guest.client import GuestClient, WakeUp
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm import sockets
from terpd.node.vmm.base import Layer
from terpd.node.vmm.definition import command_line
from terpd.node.vmm.qmp import Qmp
from terpd.node.vmm.running import STATE_SET, layer_set


@dataclass
class BareClone:
    """A clone that answered; `to_answer_s` is from the spawn to the guest's first answer."""

    guest: GuestClient
    process: subprocess.Popen[bytes]
    qmp: Qmp
    directory: Path
    to_resume_s: float
    to_answer_s: float


@asynccontextmanager
async def bare_clone(snapshot: TemplateSnapshot, accel: str) -> AsyncIterator[BareClone]:
    """Restore *snapshot*, wake it, and kill it afterwards."""
    with tempfile.TemporaryDirectory(prefix="terp-bench-") as name:
        directory = Path(name)
        for link, target in {"memory": snapshot.memory, **snapshot.disk_backing}.items():
            (directory / link).symlink_to(target)
        began = time.monotonic()
        layer = Layer(directory / "layer.qcow2", secrets.token_bytes(32))
        await overlay.create(VAULT, snapshot.empty_overlay, layer.path, secret=layer.secret, uid=os.geteuid())
        (directory / "k0").write_bytes(layer.passphrase)
        descriptors = [(STATE_SET, os.open(snapshot.devices, os.O_RDONLY))]
        descriptors += [(layer_set(0), os.open(layer.path, access)) for access in (os.O_RDWR, os.O_RDONLY)]
        with (
            sockets.listen(directory / "qmp.sock") as qmp_listener,
            sockets.listen(directory / "agent.sock") as agent_listener,
        ):
            argv = command_line(
                "terp-bench",
                snapshot.hardware,
                accel=accel,
                qmp_fd=qmp_listener.fileno(),
                agent_fd=agent_listener.fileno(),
                descriptors=descriptors,
                boot=None,
            )
            argv = [argument.replace("/m/", f"{directory}/") for argument in argv]
            qmp = await Qmp.connect(sockets.connect(directory / "qmp.sock"))
            load = qmp.execute_later("migrate-incoming", {"uri": f"file:/dev/fdset/{STATE_SET}"})
            process = subprocess.Popen(
                argv,
                pass_fds=[*(fd for _, fd in descriptors), qmp_listener.fileno(), agent_listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        for _, fd in descriptors:
            os.close(fd)
        try:
            await load
            await qmp.event("RESUME", timeout_s=30)
            resumed = time.monotonic()
            wake = WakeUp(secrets.token_bytes(64), time.time_ns(), "bench", secrets.token_bytes(16))
            guest = await GuestClient.connect_and_wake(directory / "agent.sock", wake, fresh=True, timeout_s=30)
            yield BareClone(guest, process, qmp, directory, resumed - began, time.monotonic() - began)
            await guest.close()
        finally:
            await qmp.close()
            process.kill()
            await asyncio.to_thread(process.wait)


async def full_save_ms(snapshot: TemplateSnapshot, accel: str) -> float:
    """How long QEMU takes for a save of its own of an idle machine, all of its memory, to a file."""
    async with bare_clone(snapshot, accel) as clone:
        began = time.monotonic()
        await clone.qmp.execute("stop")
        await clone.qmp.execute("migrate", {"uri": f"file:{clone.directory}/whole"})
        while (await clone.qmp.execute("query-migrate")).get("status") not in {"completed", "failed"}:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert (clone.directory / "whole").stat().st_size > 1 << 20
        return (time.monotonic() - began) * 1000


def private_mib(pid: int) -> float:
    """What the process alone costs: MiB of memory that is neither shared with others nor backed by a shared file."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:] if ":" in line
    )
    return sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean")) / 1024
