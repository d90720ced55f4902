"""
Guests that do their worst: the server says clearly what became of them, and no other sandbox notices.

Every test has a bystander that is used all the while.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from support.server import Server
from support.wait import eventually
from support.watch import unaffected
from terp import ExecKilled, ExecTimeout, GuestFault, Internal, Sandbox, StateConflict, TerpError

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def bystander(server: Server) -> Iterator[Sandbox]:
    with server.create(timeout=3600) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def others_are_unaffected(bystander: Sandbox) -> Iterator[None]:
    with unaffected(bystander):
        yield


def test_fork_bomb(sandbox: Sandbox) -> None:
    """A fork bomb is bounded by its sandbox, which can still be terminated."""
    with pytest.raises(TerpError) as caught:
        sandbox.exec("bomb() { bomb | bomb & bomb; }; bomb", timeout=10)

    assert isinstance(caught.value, ExecTimeout | ExecKilled | GuestFault), caught.value
    assert eventually(lambda: _answers(sandbox))


def test_memory_hog(sandbox: Sandbox) -> None:
    """A program that eats all memory is killed; its sandbox goes on."""
    with pytest.raises(ExecKilled) as caught:
        sandbox.exec("exec tail /dev/zero", timeout=200)

    assert caught.value.signal == 9
    assert eventually(lambda: _answers(sandbox))


def test_memory_file_system_hog(server: Server, sandbox: Sandbox) -> None:
    """Memory that hides in files of a memory file system, where no kill frees it, does not take the agent down."""
    sandbox.exec("mkdir /tmp/ram; mount -t tmpfs -o size=4g none /tmp/ram", timeout=60).check()

    with contextlib.suppress(ExecKilled, ExecTimeout, GuestFault, StateConflict):
        sandbox.exec("head -c 3000000000 /dev/zero > /tmp/ram/hog", timeout=60)

    assert server.status(sandbox) == "failed" or sandbox.files.read("/etc/debian_version").startswith("12")


def test_kill_everything(sandbox: Sandbox) -> None:
    """`kill -9 -1` ends all processes but the agent."""
    sandbox.exec("setsid sleep 1000 > /dev/null 2>&1 &").check()

    with contextlib.suppress(ExecKilled):
        sandbox.exec("kill -9 -1; echo survived")

    assert _answers(sandbox)
    assert sandbox.exec("pgrep -c sleep").stdout == "0\n"


def test_signals_to_the_first_process(sandbox: Sandbox) -> None:
    """No signal that root in the guest sends can end or stop the agent."""
    sandbox.exec("for s in $(seq 1 64); do kill -$s 1 2>/dev/null; done; true").check()

    assert _answers(sandbox)


@pytest.mark.parametrize("crash", ["echo b > /proc/sysrq-trigger", "echo c > /proc/sysrq-trigger"])
def test_machine_that_ends_itself(server: Server, sandbox: Sandbox, crash: str) -> None:
    """A reboot or a crash of the guest's kernel ends the machine: its sandbox is failed and says why."""
    with pytest.raises(TerpError) as caught:
        sandbox.exec(f"sync; {crash}; sleep 60", timeout=90)

    assert isinstance(caught.value, GuestFault | StateConflict), caught.value
    eventually(lambda: server.status(sandbox) == "failed")
    with pytest.raises(StateConflict, match="machine_lost"):
        sandbox.exec("true")
    with pytest.raises(StateConflict, match="failed"):
        sandbox.files.read("/etc/hostname")
    assert sandbox.id not in server.host.owners()
    sandbox.terminate()


def test_endless_output(sandbox: Sandbox) -> None:
    """A command that writes without end is read without end, bounded in memory, and ends at its timeout."""
    with pytest.raises(ExecTimeout) as caught:
        sandbox.exec("yes", timeout=8)

    assert caught.value.stdout.startswith("y\ny\n")
    assert _answers(sandbox)


def test_output_nobody_reads(server: Server, sandbox: Sandbox) -> None:
    """An endless command whose reader has left does not fill the server, the guest or anything else."""
    stream = sandbox.exec_stream("yes", timeout=15)
    next(stream)
    stream.close()

    assert _answers(sandbox)
    assert _server_memory_mib(server) < 600


def test_garbage_on_the_agent_channel(server: Server) -> None:
    """A guest that writes garbage to the host instead of the agent's frames harms only itself."""
    steal = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pidfd = os.pidfd_open(1)
for fd in range(3, 64):
    try:
        name = os.readlink(f"/proc/1/fd/{fd}")
    except OSError:
        continue
    if "vport" in name or "virtio" in name:
        port = libc.syscall(438, pidfd, fd, 0)  # pidfd_getfd
        os.set_blocking(port, True)
        written = 0
        while written < MANY:
            written += os.write(port, GARBAGE)
        sys.exit(0)
sys.exit("no port found")
"""
    for garbage in (
        "os.urandom(4096)",
        "b'\\xff' * 65536",
        "bytes(65536)",
        "b'\\0\\0\\xff\\xff\\0\\0\\0\\1\\2' * 4096",
    ):
        with server.create("python-3.12-bare") as hostile:
            hostile.files.write("/tmp/steal.py", steal.replace("GARBAGE", garbage).replace("MANY", str(1 << 20)))
            with contextlib.suppress(GuestFault, ExecTimeout, ExecKilled, StateConflict):
                hostile.exec("python /tmp/steal.py", timeout=8)
            eventually(lambda: _answers(hostile) or server.status(hostile) == "failed")
    assert _server_memory_mib(server) < 600


def test_direct_writes_to_the_port(sandbox: Sandbox) -> None:
    """The port's device nodes give a guest program nothing: they are busy, or writing harms only itself."""
    sandbox.exec(
        "for p in /dev/vport* /dev/virtio-ports/*; do head -c 100000 /dev/urandom > $p; done; true", timeout=20
    )

    assert eventually(lambda: _answers(sandbox))


def _answers(sandbox: Sandbox) -> bool:
    try:
        return sandbox.exec("echo answer", timeout=20).stdout == "answer\n"
    except Internal:
        raise
    except TerpError:
        return False


def _server_memory_mib(server: Server) -> int:
    status = server.process_status()
    return int(status["VmRSS"].split()[0]) // 1024
