"""
The floor of file transfer: bytes through a virtio-serial port with nothing but `cat` at the guest's end.

The template's image is booted once with a second port; the host writes to and reads from its socket.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from terpd.model.guest import ExecRequest
from terpd.model.ids import new_exec_id
from terpd.node.disk import overlay
from terpd.node.guest.client import GuestClient
from terpd.node.snapshot.template import TemplateSnapshot
from terpd.node.vmm import sockets
from terpd.node.vmm.definition import Boot, command_line

_CHUNK = bytes(64 * 1024)
CONSOLE_SET = 2  # fdset of the console, as the boot names it
_PORT = "/dev/vport0p2"


@dataclass(frozen=True, slots=True)
class RawChannel:
    """MiB per second, host to guest and guest to host."""

    to_guest_mib_s: float
    from_guest_mib_s: float


async def measure(snapshot: TemplateSnapshot, accel: str, boot: Boot, mib: int) -> RawChannel:
    """Boot *snapshot*'s image and pump *mib* MiB each way."""
    with tempfile.TemporaryDirectory(prefix="terp-bench-") as name:
        directory = Path(name)
        (directory / overlay.ROOT_NAME).symlink_to(snapshot.image.root)
        overlay.create_on_root(directory / "disk.qcow2", snapshot.image.disk_bytes)
        with (directory / "memory").open("wb") as memory:
            memory.truncate(snapshot.hardware.memory_mib << 20)
        console = os.open(directory / "console.log", os.O_WRONLY | os.O_CREAT)
        with (
            sockets.listen(directory / "qmp.sock") as qmp,
            sockets.listen(directory / "agent.sock") as agent,
            sockets.listen(directory / "raw.sock") as raw,
        ):
            argv = command_line(
                "terp-bench",
                snapshot.hardware,
                accel=accel,
                qmp_fd=qmp.fileno(),
                agent_fd=agent.fileno(),
                descriptors=[(CONSOLE_SET, console)],
                boot=boot,
            )
            argv = [a.replace("/m/", f"{directory}/").replace("max_ports=2", "max_ports=3") for a in argv]
            argv += ["-chardev", f"socket,id=r0,fd={raw.fileno()},server=on,wait=off"]
            argv += ["-device", "virtserialport,chardev=r0,name=raw"]
            fds = [console, qmp.fileno(), agent.fileno(), raw.fileno()]
            process = subprocess.Popen(argv, pass_fds=fds, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(console)
        try:
            guest = await GuestClient.connect(directory / "agent.sock", fresh=True, timeout_s=120)
            with sockets.connect(directory / "raw.sock") as sock:
                loop = asyncio.get_running_loop()
                total = mib << 20

                sink = asyncio.create_task(_run(guest, f"head -c {total} {_PORT} >/dev/null"))
                began = time.monotonic()
                for _ in range(total // len(_CHUNK)):
                    await loop.sock_sendall(sock, _CHUNK)
                await sink
                to_guest = mib / (time.monotonic() - began)

                source = asyncio.create_task(_run(guest, f"head -c {total} /dev/zero >{_PORT}"))
                began = time.monotonic()
                received = 0
                while received < total:
                    received += len(await loop.sock_recv(sock, 1 << 20))
                from_guest = mib / (time.monotonic() - began)
                await source
            await guest.close()
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
    return RawChannel(to_guest, from_guest)


async def _run(guest: GuestClient, command: str) -> None:
    async for _ in guest.exec(ExecRequest(exec_id=new_exec_id(), command=command, timeout_s=300)):
        pass
