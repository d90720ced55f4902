"""The QMP client against a scripted monitor on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator

import pytest

from terpd.node.vmm.base import VmmFailed
from terpd.node.vmm.qmp import MAX_LINE_BYTES, Qmp


@pytest.fixture
async def monitor() -> AsyncIterator[tuple[Qmp, asyncio.StreamReader, asyncio.StreamWriter]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    qmp = await Qmp.connect(ours)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    yield qmp, reader, writer
    await qmp.close()
    writer.close()


def send(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(json.dumps(message).encode() + b"\r\n")


async def test_commands_written_before_the_greeting_are_answered_in_order(monitor: tuple) -> None:
    """A restore writes everything before QEMU listens."""
    qmp, _, writer = monitor
    first, second = qmp.execute_later("one"), qmp.execute_later("two")

    send(writer, {"QMP": {"version": {}}})
    for value in ({}, 1, 2):  # capabilities, one, two
        send(writer, {"return": value})

    assert (await first, await second) == (1, 2)


async def test_an_event_between_replies_is_not_taken_for_one(monitor: tuple) -> None:
    """RESUME arrives whenever the guest runs."""
    qmp, _, writer = monitor
    reply = qmp.execute_later("migrate-incoming")

    send(writer, {"return": {}})
    send(writer, {"event": "RESUME", "timestamp": {}})
    send(writer, {"return": "loaded"})

    await qmp.event("RESUME", timeout_s=5)
    assert await reply == "loaded"


async def test_a_refusal_is_an_error_with_the_monitors_words(monitor: tuple) -> None:
    """The operator's log says what QEMU said."""
    qmp, _, writer = monitor
    send(writer, {"return": {}})
    send(writer, {"error": {"class": "GenericError", "desc": "no such node"}})

    with pytest.raises(VmmFailed, match="no such node"):
        await qmp.execute("blockdev-snapshot", timeout_s=5)


@pytest.mark.parametrize(
    "last_words",
    [
        b"",
        b"garbage\n",
        b"[1]\n",
        b'"text"\n',
        b'{"error": "text"}\n' * 2,
        b"[" * 100_000 + b"\n",  # json raises RecursionError
        b'{"event": "VSERPORT_CHANGE"}\n' * 10_000,
        b"x" * (MAX_LINE_BYTES + 1),
    ],
    ids=lambda each: str(each[:8]),
)
async def test_a_monitor_that_dies_or_talks_nonsense_fails_all_waiters(monitor: tuple, last_words: bytes) -> None:
    """QEMU may be taken over by its guest: nobody waits for ever, and memory is bounded."""
    qmp, _, writer = monitor
    waiting = qmp.execute_later("stop")

    writer.write(last_words)
    writer.close()

    with pytest.raises(VmmFailed):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(VmmFailed) as caught:
        await qmp.event("RESUME", timeout_s=10)
    assert "did not report" not in str(caught.value)


async def test_silence_ends_at_the_deadline(monitor: tuple) -> None:
    """A stopped monitor must not stop the daemon."""
    qmp, _, _ = monitor

    with pytest.raises(VmmFailed, match="did not answer"):
        await qmp.execute("query-status", timeout_s=0.01)


async def test_a_connection_that_failed_can_be_closed(monitor: tuple) -> None:
    """Whatever the monitor sent, its machine can be buried: that closes the connection, and must not raise."""
    qmp, _, writer = monitor
    writer.write(b"[" * 100_000 + b"\n")
    with pytest.raises(VmmFailed):
        await qmp.execute("stop", timeout_s=10)

    await qmp.close()
    await qmp.close()


async def test_an_event_that_was_forgotten_is_waited_for_again(monitor: tuple) -> None:
    """Of events that repeat, the next one is meant."""
    qmp, _, writer = monitor
    send(writer, {"event": "JOB_STATUS_CHANGE"})
    await qmp.event("JOB_STATUS_CHANGE", timeout_s=5)

    qmp.forget("JOB_STATUS_CHANGE")
    with pytest.raises(VmmFailed, match="did not report"):
        await qmp.event("JOB_STATUS_CHANGE", timeout_s=0.01)
    send(writer, {"event": "JOB_STATUS_CHANGE"})
    await qmp.event("JOB_STATUS_CHANGE", timeout_s=5)


async def test_a_descriptor_arrives_with_its_own_command() -> None:
    """QEMU takes it from the bytes it came with, so it must not overtake, or be overtaken by, other commands."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    qmp = await Qmp.connect(ours)
    readable, writable = os.pipe()
    before = [qmp.execute_later("object-add", {"data": "x" * 30_000}) for _ in range(10)]  # more than a buffer takes

    def take() -> tuple[str, list[int]]:
        """All that came until a descriptor did; read byte by byte, as QEMU does."""
        seen = bytearray()
        while True:
            data, fds, _, _ = socket.recv_fds(theirs, 1, 1)
            seen += data
            if fds:
                return (seen + theirs.recv(1000)).decode(), fds

    adding = asyncio.create_task(qmp.add_fd(writable, 7))
    seen, (fd,) = await asyncio.to_thread(take)
    theirs.sendall(b'{"return": {}}\n' * (1 + len(before) + 1))
    await adding

    assert seen.count("object-add") == len(before)
    assert seen.endswith('}{"execute":"add-fd","arguments":{"fdset-id":7}}')
    assert all([await each == {} for each in before])
    os.write(fd, b"hello")
    assert os.read(readable, 5) == b"hello"
    for each in (fd, readable, writable):
        os.close(each)
    await qmp.close()
    theirs.close()


async def test_no_descriptor_is_given_to_a_monitor_that_is_gone(monitor: tuple) -> None:
    """Its machine is as good as dead, and who wanted to save it is told."""
    qmp, _, writer = monitor
    writer.close()
    with pytest.raises(VmmFailed):
        await qmp.execute("stop")

    with pytest.raises(VmmFailed):
        await qmp.add_fd(0, 1)


async def test_ready_is_when_it_takes_commands(monitor: tuple) -> None:
    """Its memory is mapped then; the greeting alone is not yet it."""
    qmp, _, writer = monitor
    send(writer, {"QMP": {}})
    waiting = asyncio.create_task(qmp.ready(timeout_s=10))
    await asyncio.sleep(0)
    assert not waiting.done()

    send(writer, {"return": {}})
    await waiting


async def test_a_monitor_that_says_nothing_is_not_ready(monitor: tuple) -> None:
    """A start ends at its deadline."""
    qmp, _, _ = monitor

    with pytest.raises(VmmFailed, match="did not answer"):
        await qmp.ready(timeout_s=0.01)
