"""Preparing a template's snapshot: once, whole or not at all, whoever else is at it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from support.simulated_vmm import SimulatedVmm, simulated_vmm
from support.supervised import SIZES, build_template, save_snapshot, template_snapshots
from support.until import until
from support.wait import eventually

from terpd.daemon.node import _preparing, drop_snapshots
from terpd.model.errors import StateConflict
from terpd.model.sandbox import Size
from terpd.node.jail.process import scan
from terpd.node.snapshot.manifest import SnapshotMismatch
from terpd.node.snapshot.warm_up import PreparationFailed
from terpd.node.template import artifact
from terpd.node.template.progress import Quiet

SMALL = SIZES["small"]


@pytest.fixture
async def vmm() -> AsyncIterator[SimulatedVmm]:
    async with simulated_vmm() as vmm:
        yield vmm


async def test_a_prepared_template_is_whole_and_found(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """Warmed, frozen, saved; nothing else stays, and nothing of it can be written."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    assert snapshots.find(image, SMALL) is None

    made = await snapshots.ensure(image, SMALL, Quiet())

    assert snapshots.find(image, SMALL) == made
    (guest,) = vmm.guests.values()
    assert (guest.commands, guest.state) == (["echo warm"], "frozen")
    names = {path.name: path.stat().st_mode & 0o777 for path in made.directory.iterdir() if path.suffix != ".json"}
    assert names == dict.fromkeys(["memory", "devices", "base.qcow2", "empty.qcow2"], 0o444)
    assert vmm.running() == []
    assert [path.name for path in made.directory.parent.iterdir() if path.name.startswith(".tmp-")] == []


async def test_many_who_want_it_at_once_share_one_preparation(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """More than the loop has threads: who waits must not keep the one that works from its own."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    vmm.gate.clear()
    wants = [asyncio.create_task(snapshots.ensure(image, SMALL, Quiet())) for _ in range(40)]
    await until(lambda: vmm.waiting)
    vmm.gate.set()

    made = await asyncio.gather(*wants)

    assert len(vmm.started) == 1
    assert len({each.directory for each in made}) == 1


async def test_a_builder_in_another_process_is_waited_for_without_a_thread(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """Who waits can be cancelled, and the loop's threads are free meanwhile."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    with artifact.locked(tmp_path / "snapshots/debian-12", "small"):
        wants = [asyncio.create_task(snapshots.ensure(image, SMALL, Quiet())) for _ in range(40)]
        assert await asyncio.to_thread(lambda: "a thread") == "a thread"
        wants.pop().cancel()
    await asyncio.gather(*wants)

    assert len(vmm.started) == 1


async def test_a_preparation_that_fails_leaves_nothing(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """Whatever failed, it is a PreparationFailed, and the next one may try."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    for failure in (OSError(28, "No space left on device"), subprocess.CalledProcessError(1, "qemu-img")):
        vmm.failure = failure
        with pytest.raises(PreparationFailed):
            await snapshots.ensure(image, SMALL, Quiet())
    vmm.failure = None

    assert list((tmp_path / "snapshots/debian-12").glob("[!.]*")) == []
    assert await snapshots.ensure(image, SMALL, Quiet())


async def test_a_full_disk_before_the_boot_is_a_failed_preparation(
    tmp_path: Path, vmm: SimulatedVmm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not end who fills the pools."""

    def full(path: Path, virtual_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("terpd.node.disk.overlay.create_on_root", full)
    image = build_template(tmp_path)
    with pytest.raises(PreparationFailed, match="No space"):
        await template_snapshots(tmp_path, image, vmm).ensure(image, SMALL, Quiet())


async def test_a_cancelled_preparation_ends_its_monitor(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """The daemon stops while a template boots."""
    image = build_template(tmp_path)
    vmm.mute = True
    preparing = asyncio.create_task(template_snapshots(tmp_path, image, vmm).ensure(image, SMALL, Quiet()))
    await until(lambda: any(guest.sessions for guest in vmm.guests.values()))
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing

    assert vmm.running() == []
    assert [each.name for each in (tmp_path / "snapshots/debian-12").iterdir()] == [".small.lock"]


async def test_a_monitor_that_a_dead_builder_left_is_ended(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """Who holds the lock knows that nobody else prepares this template; what is half made goes too."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    remains = tmp_path / "snapshots/debian-12/.tmp-small~1234"
    remains.mkdir(parents=True)
    vmm.mute = True
    dead = asyncio.create_task(snapshots.ensure(image, SMALL, Quiet()))
    await until(lambda: any(guest.sessions for guest in vmm.guests.values()))
    (orphan,) = vmm.guests.values()
    vmm.mute = False
    lock = tmp_path / "snapshots/debian-12/.small.lock"
    lock.rename(tmp_path / "its-own")  # as if its holder had died: the next one locks another file

    await snapshots.ensure(image, SMALL, Quiet())

    assert not orphan.process.alive()
    assert not remains.exists()
    with pytest.raises(PreparationFailed):
        await dead


async def test_an_older_snapshot_of_this_size_goes_and_others_stay(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """Also one of a size whose name begins alike."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    alike = save_snapshot(snapshots, image, Size("small-x", 1, 256))
    older = alike.with_name("small-0123456789abcdef")
    older.mkdir()

    await snapshots.ensure(image, SMALL, Quiet())

    assert alike.is_dir()
    assert not older.exists()


async def test_an_older_snapshot_that_is_needed_stays_and_is_found_by_its_name(
    tmp_path: Path, vmm: SimulatedVmm
) -> None:
    """A saved state is the difference to exactly that one, whatever was built since."""
    image = build_template(tmp_path)
    snapshots = template_snapshots(tmp_path, image, vmm)
    older = await snapshots.ensure(image, SMALL, Quiet())
    artifact.pin(older.directory, "0a1b2c3d")
    snapshots._initrds[image.kernel.digest] = tmp_path / "initrd/i2.cpio"  # as a newer release has

    newer = await snapshots.ensure(image, SMALL, Quiet())

    assert newer.directory != older.directory
    assert snapshots.open_exact("debian-12", older.directory.name) == older
    assert older.memory_digest == blake3(older.memory.read_bytes()).hexdigest()
    assert older.made_of["initramfs"] == "i1.cpio"


async def test_a_snapshot_of_another_host_is_refused_by_name(tmp_path: Path, vmm: SimulatedVmm) -> None:
    """The reason says what differs; so it does of one that is damaged or gone."""
    image = build_template(tmp_path)
    made = await template_snapshots(tmp_path, image, vmm).ensure(image, SMALL, Quiet())
    name = made.directory.name
    vmm.build = {"simulated": "2", "cpu": "EPYC"}
    snapshots = template_snapshots(tmp_path, image, vmm)

    with pytest.raises(SnapshotMismatch, match=r"cpu .*simulated \(saved 1, here 2\)"):
        snapshots.open_exact("debian-12", name)
    vmm.build = {"simulated": "1"}
    assert snapshots.open_exact("debian-12", name) == made
    image.root.unlink()
    with pytest.raises(SnapshotMismatch, match="image d1"):
        snapshots.open_exact("debian-12", name)
    made.memory.unlink()
    with pytest.raises(SnapshotMismatch, match="memory"):
        snapshots.open_exact("debian-12", name)
    with pytest.raises(SnapshotMismatch, match="no readable manifest"):
        snapshots.open_exact("debian-12", "small-0123456789abcdef")


# ---- dropping


@pytest.fixture
def imitate() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes that have a monitor's name and, like one, a file mapped."""
    children: list[subprocess.Popen[bytes]] = []

    def start(name: str, mapped: Path | None = None) -> subprocess.Popen[bytes]:
        words = ["qemu-system-imitation", "-name", name, "-o", "-exec", "sleep", "1000", ";", "-quit"]  # to find(1)
        preload = {} if mapped is None else {"LD_PRELOAD": str(mapped)}
        children.append(
            subprocess.Popen(words, executable="/usr/bin/find", cwd="/", env=preload, start_new_session=True)
        )
        return children[-1]

    yield start
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot of `debian-12` whose memory is a library, so that a loader can map it, and its lock."""
    directory = tmp_path / "snapshots/debian-12/small-0123456789abcdef"
    with artifact.locked(directory.parent, "small"):
        directory.mkdir()
    (library,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line}
    shutil.copyfile(library, directory / "memory")
    return directory


def test_what_machines_run_from_is_not_dropped(
    tmp_path: Path, snapshot: Path, imitate: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Of whichever daemon they are; it goes once they are gone."""
    machine = imitate("terp-0a1b2c3d-m_1", snapshot / "memory")
    eventually(lambda: str(snapshot) in Path(f"/proc/{machine.pid}/maps").read_text())

    with pytest.raises(StateConflict, match="run from template"):
        drop_snapshots(tmp_path, "debian-12")
    assert snapshot.is_dir()

    machine.kill()
    machine.wait()
    drop_snapshots(tmp_path, "debian-12")
    assert [path.name for path in snapshot.parent.iterdir()] == [".small.lock"]


def test_dropping_ends_what_a_dead_builder_left(
    tmp_path: Path, snapshot: Path, imitate: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Its monitor would run for ever; that of another home or another template is somebody else's."""
    orphan = imitate(f"terp-{_preparing(tmp_path)}-debian-12-small", snapshot / "memory")
    others = [
        imitate(f"terp-{_preparing(tmp_path / 'another')}-debian-12-small"),
        imitate(f"terp-{_preparing(tmp_path)}-other-small"),
    ]
    eventually(lambda: {each.pid for each in (orphan, *others)} <= {process.pid for _, process in scan("terp-t")})

    drop_snapshots(tmp_path, "debian-12")

    assert orphan.wait(60) == -signal.SIGKILL
    assert [other.poll() for other in others] == [None, None]
    assert not snapshot.exists()


def test_dropping_leaves_what_is_needed_unless_forced(tmp_path: Path, snapshot: Path) -> None:
    """Saved states of a server that is not even running may be the difference to it."""
    artifact.pin(snapshot, "0a1b2c3d")

    drop_snapshots(tmp_path, "debian-12")
    assert snapshot.is_dir()
    drop_snapshots(tmp_path, "debian-12", force=True)
    assert [path.name for path in snapshot.parent.iterdir()] == [".small.lock"]


def test_dropping_a_template_without_snapshots_is_nothing(tmp_path: Path) -> None:
    """A template that was built and never started from."""
    drop_snapshots(tmp_path, "debian-12")
