"""
Whether this host's hardware virtualisation works: decided by booting a guest with it, once.

That /dev/kvm is there and opens says little: on a nested host it was seen to create machines and to run a few
instructions, while no stock kernel ever started (docs/adr/0002-machine.md). So the kernel that machines boot is booted
under KVM, in the jail that machines have, until it hands over to its init.

    no /dev/kvm, or it does not open ──► tcg                           (looked at each time)
    remembered for this host, QEMU and kernel ──► that
    else boot ──► init runs within the limit: kvm  /  it does not: tcg   (remembered)  /  QEMU refuses: tcg
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from terpd.node.jail.launch import Bind, ErrorText, JailSpec, launch
from terpd.node.jail.process import Process
from terpd.node.jail.root import JailRoot
from terpd.node.template import artifact

TIME_LIMIT_S = 5.0  # with hardware a kernel reaches its init in well under one second

_KVM = Path("/dev/kvm")
_RECORD = "accel.json"
_MEMORY_MIB = 256
# What the kernel says when it starts the initramfs's init (linux/init/main.c, run_init_process).
_MARKER = b"Run /init as init process"
_MAX_CONSOLE_BYTES = 256 * 1024
_KVM_SET, _CONSOLE_SET = 1, 2
_QUOTED_CHARACTERS = 200


class MonitorEnded(Exception):
    """QEMU gave up before a guest could show anything; it may be short of memory, or another hypervisor in the way."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """`name` is QEMU's word, "kvm" or "tcg" (emulation); `reason` is for the operator, a clause without a full stop."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What the probe boots, and where: the machine's uid, and a prepared root."""

    root: JailRoot
    launcher: Path
    kernel: Path
    initrd: Path
    uid: int


async def probe(home: Path, trial: Trial, *, device: Path = _KVM) -> Acceleration:
    """
    Decide how machines run on this host.

    5.1 s at most, and 1 ms when it was decided before. The answer is remembered in `accel.json` under *home* for this
    host's kernel and processor, this QEMU and this guest kernel; remove that file to have it tried again.

    Raises:
        LaunchFailed: The jail does not work here, so nothing was learned.
    """
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Acceleration("tcg", f"{device}: {error.strerror}")
    try:
        record = home / _RECORD
        key = _key(trial)
        found = artifact.read_json(record)
        if found is not None and found.get("key") == key and found.get("accelerator") in {"kvm", "tcg"}:
            return Acceleration(found["accelerator"], str(found.get("reason")))
        failure = await boot_failure(trial, accel=f"kvm,device=/dev/fdset/{_KVM_SET}", kvm=kvm)
    except MonitorEnded as error:
        return Acceleration("tcg", str(error))
    finally:
        os.close(kvm)
    result = Acceleration("tcg", failure) if failure else Acceleration("kvm", "a guest booted with it")
    _remember(record, key, result)
    return result


async def boot_failure(
    trial: Trial, *, accel: str, kvm: int | None = None, cmdline: str = "", time_limit_s: float = TIME_LIMIT_S
) -> str | None:
    """
    Boot the trial's kernel until it starts its init; the machine is gone on return.

    Args:
        accel: Value of QEMU's -accel.
        kvm: Descriptor of /dev/kvm, for an *accel* that names its set.
        cmdline: More words for the kernel.

    Returns:
        None when it booted, else what was seen instead.

    Raises:
        MonitorEnded: QEMU refused.
        LaunchFailed: The jail does not work here.
    """
    with ErrorText() as error_text, _console() as (console, write):
        descriptors = {_CONSOLE_SET: write.fileno()} | ({} if kvm is None else {_KVM_SET: kvm})
        argv = [
            "/usr/bin/qemu-system-x86_64",
            *("-name", "terp-probe"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-M", "microvm,pit=off,pic=off", "-accel", accel, "-cpu", "max"),
            *("-m", f"{_MEMORY_MIB}M", "-bios", "qboot.rom"),
            *("-kernel", "/m/kernel", "-initrd", "/m/initrd"),
            *("-append", f"console=ttyS0 panic=-1 {cmdline}".strip()),
            *("-chardev", f"file,id=s0,path=/dev/fdset/{_CONSOLE_SET},append=on", "-serial", "chardev:s0"),
            *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
            *(word for number, fd in descriptors.items() for word in ("-add-fd", f"fd={fd},set={number}")),
        ]
        spec = JailSpec(
            name="probe",
            root=trial.root.path,
            argv=argv,
            binds=[Bind(trial.kernel, "/m/kernel"), Bind(trial.initrd, "/m/initrd")],
            fds=list(descriptors.values()),
            uid=trial.uid,
            gid=trial.uid,
            stderr=error_text.fd,
        )
        pid = await launch(spec, launcher=trial.launcher)
        write.close()  # QEMU alone holds it now, so its death ends the console
        try:
            process = Process.of(pid)
        except ProcessLookupError:
            raise MonitorEnded(f"QEMU ended at once: {error_text.text()[:_QUOTED_CHARACTERS]}") from None
        try:
            said = await _listen(console, time_limit_s)
        finally:
            process.kill()
            await process.wait()
        if _MARKER in said:
            return None
        if errors := error_text.text():
            raise MonitorEnded(f"QEMU ended: {errors[:_QUOTED_CHARACTERS]}")
        last = said.strip().rpartition(b"\n")[2].decode(errors="replace")[:_QUOTED_CHARACTERS]
        seen = f"it got as far as: {last!r}" if last else "it said nothing"
        return f"a guest did not boot within {time_limit_s:.0f} s; {seen}"


async def _listen(console: io.FileIO, time_limit_s: float) -> bytes:
    """Read until the marker, the end, the time or the size limit."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    said = bytearray()

    def readable() -> None:
        chunk = console.read(65536)
        said.extend(chunk or b"")
        if not chunk or _MARKER in said or len(said) > _MAX_CONSOLE_BYTES:
            loop.remove_reader(console)
            over.set()

    loop.add_reader(console, readable)
    try:
        await asyncio.wait_for(over.wait(), time_limit_s)
    except TimeoutError:
        pass  # what was said until then is the answer
    finally:
        loop.remove_reader(console)
    return bytes(said)


@contextlib.contextmanager
def _console() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    with io.FileIO(read) as reader, io.FileIO(write, "w") as writer:
        yield reader, writer


def _key(trial: Trial) -> str:
    """All that may change the answer: the host's kernel and processor, QEMU, the guest's kernel."""
    with Path("/proc/cpuinfo").open() as lines:
        cpu = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    kernel = trial.kernel.stat()
    parts = [platform.release(), platform.version(), *cpu, trial.root.digest, str(trial.kernel), str(kernel.st_size)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _remember(record: Path, key: str, result: Acceleration) -> None:
    fresh = record.with_name(f".{record.name}")
    artifact.write_json(fresh, {"key": key, "accelerator": result.name, "reason": result.reason})
    fresh.replace(record)
