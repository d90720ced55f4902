"""Processes are told apart from later ones of the same pid, and their end is seen by any number of waiters."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import pytest

from terpd.node.jail.process import Process, machine_name


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "infinity"]) as popen:
        yield popen
        popen.kill()


def test_names_this_process() -> None:
    """The same process is named equally twice, and it is alive."""
    assert Process.of(os.getpid()) == Process.of(os.getpid())
    assert Process.of(os.getpid()).alive()


def test_no_such_pid(sleeper: subprocess.Popen[bytes]) -> None:
    """A pid that no process has cannot be named."""
    sleeper.kill()
    sleeper.wait()

    with pytest.raises(ProcessLookupError):
        Process.of(sleeper.pid)


async def test_a_reused_pid_is_a_stranger(sleeper: subprocess.Popen[bytes]) -> None:
    """A record of an earlier process with the same pid is dead, and killing it leaves the stranger alone."""
    stranger = Process.of(sleeper.pid)
    recorded = replace(stranger, started=stranger.started - 1)

    recorded.kill()
    await recorded.wait()

    assert not recorded.alive()
    assert stranger.alive()


def test_a_descriptor_of_another_process_is_duplicated() -> None:
    """The same open file; and none of a process that is gone, or of a number that it has not open."""
    with tempfile.TemporaryFile() as file:
        file.write(b"shared")
        file.flush()
        with subprocess.Popen(["sleep", "infinity"], pass_fds=[file.fileno()]) as popen:
            process = Process.of(popen.pid)
            found = process.descriptor(file.fileno())
            with pytest.raises(OSError, match="pidfd_getfd"):
                process.descriptor(999)
            popen.kill()
        try:
            assert os.pread(found, 6, 0) == b"shared"
            assert not os.get_inheritable(found)
        finally:
            os.close(found)
    with pytest.raises(ProcessLookupError):
        process.descriptor(0)


async def test_kill_and_wait(sleeper: subprocess.Popen[bytes]) -> None:
    """All who wait learn of the end, also those who come late; killing again is nothing."""
    process = Process.of(sleeper.pid)
    waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
    await asyncio.sleep(0)

    process.kill()
    await asyncio.gather(*waiting)
    process.kill()
    await process.wait()

    assert not process.alive()
    sleeper.returncode = -9  # reaped by wait(), as a daemon that is its container's init must


async def test_cancelled_wait_can_be_repeated(sleeper: subprocess.Popen[bytes]) -> None:
    """Giving up waiting leaves nothing behind that would disturb the next wait."""
    process = Process.of(sleeper.pid)
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])

    process.kill()
    await process.wait()

    assert waiting.cancelled()
    sleeper.returncode = -9


@pytest.mark.parametrize(
    ("cmdline", "name"),
    [
        (b"/usr/bin/qemu-system-x86_64\0-name\0terp-x-m_1\0-nodefaults\0", "terp-x-m_1"),
        (b"/usr/bin/qemu-system-x86_64\0-M\0-name\0terp-x-m_1\0", None),
        (b"/usr/bin/terp-jail\0--name\0m_1\0--\0/usr/bin/qemu-system-x86_64\0-name\0terp-x-m_1\0", None),
        (b"/usr/bin/qemu-system-x86_64\0-name\0\xff\0", "\ufffd"),
        (b"/usr/bin/qemu-system-x86_64\0--version\0", None),
        (b"", None),
    ],
    ids=["machine", "other option first", "launcher", "not UTF-8", "no name", "kernel thread"],
)
def test_machine_name(cmdline: bytes, name: str | None) -> None:
    """Only a QEMU that says its name first is taken for a machine."""
    assert machine_name(cmdline) == name


async def test_what_ended_before_anybody_waited_is_reaped() -> None:
    """A monitor that dies at once must not stay as a zombie until its parent ends."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "infinity"], {})  # noqa: ASYNC221  returns at once
    process = Process.of(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  it has ended, and is a zombie still
    assert not process.alive()

    await process.wait()

    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222  does not block
