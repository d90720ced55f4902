"""What the monitor of a real sandbox has in its hands: of one with a network, resumed, for that has the most."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lab import KEY, Lab
from support.world import moved, running_world

from terpd.model.ids import StateId, TenantId, new_state_id
from terpd.model.network import NetworkPolicy, NetworkSpec
from terpd.model.ports import StateRef
from terpd.node.jail.process import become_parent_of_orphans

pytestmark = pytest.mark.vm

_NETWORK = NetworkSpec(TenantId("default"), NetworkPolicy(open=True))


@pytest.fixture
def own_network() -> Iterator[None]:
    with moved():
        yield


async def test_a_resumed_monitor_holds_its_own_and_no_secret(own_network: None, tmp_path: Path) -> None:
    """Descriptors of its own files, nothing of other states but to read; the secrets it started with are gone."""
    become_parent_of_orphans()
    async with running_world() as world:
        lab = Lab(tmp_path, world)
        await lab.open()
        try:
            sandbox = await lab.start(_NETWORK)
            state = StateRef(StateId(new_state_id()), KEY)
            await lab.node.pause_machine(sandbox, key=KEY, into=state)
            await lab.node.stop_machine(sandbox)
            await lab.start(_NETWORK, sandbox_id=sandbox, state=state)
            proc = _monitor()
            held = _held(proc)
            secrets = {path.name: path.stat().st_size for path in (proc / "root/m").glob("k*")}
            shown = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
            namespaces = _namespaces(proc)
            devices = [line.split(":")[0].strip() for line in (proc / "net/dev").read_text().splitlines()[2:]]
        finally:
            await lab.close(stop_machines=True)

    assert {what for what, writable in held if writable} == {
        *("own layer", "/dev/null", "/dev/net/tun", "/memfd:stderr (deleted)"),
        *("socket", "anon_inode"),
    }
    assert {what for what, writable in held if not writable} == {
        *("own layer", "frozen layer", "/memfd:devices (deleted)"),
        *("/m/base.qcow2", "/m/root.ext4", "/m/memory"),
    }
    assert [what for what, _ in held].count("/dev/net/tun") == 1
    assert secrets == {"k0": 0, "k1": 0}
    assert KEY not in shown
    assert KEY.hex().encode() not in shown
    assert base64.b64encode(KEY) not in shown
    assert not namespaces & _namespaces(Path("/proc/self"))
    assert devices == ["lo"]


def _held(proc: Path) -> list[tuple[str, bool]]:
    """Each descriptor: of what, and whether it may be written."""
    found = []
    for fd in (proc / "fd").iterdir():
        target = str(fd.readlink())
        if "/artifacts/layers/" in target:
            what = "frozen layer"
        elif "/machines/" in target:
            what = "own layer"
        else:
            what = target.partition(":[")[0]  # socket:[number], anon_inode:[kind]
        lines = (proc / "fdinfo" / fd.name).read_text().splitlines()
        flags = int(next(line.split()[1] for line in lines if line.startswith("flags:")), 8)
        found.append((what, flags & os.O_ACCMODE != os.O_RDONLY))
    return found


def _namespaces(proc: Path) -> set[Path]:
    return {(proc / "ns" / each).readlink() for each in ("user", "mnt", "pid", "net", "ipc", "uts")}


def _monitor() -> Path:
    """The one that is a child of this process."""
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((proc / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"qemu-system" in (proc / "cmdline").read_bytes():
                return proc
    raise AssertionError("no monitor runs")
