"""The guest's client and the real agent hold the same wire: sessions, commands, files, and hosts that die."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from support.serial_port import serial_port

from terpd.model import errors
from terpd.model.guest import (
    ExecEvent,
    ExecExited,
    ExecOutput,
    ExecRequest,
    ExecStarted,
    Extracted,
    FileChange,
    FileEvent,
    OutputStream,
)
from terpd.model.ids import ExecId, new_exec_id
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.client import GuestClient, WakeUp
from terpd.node.guest.frames import FrameType, encode, encode_request, preface

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(
    os.environ.get("TERP_AGENT_BINARY", ROOT / "target/x86_64-unknown-linux-gnu/release/terp-agent"),
)

pytestmark = pytest.mark.skipif(
    not BINARY.is_file(),
    reason="build it: cargo build --release -p terp-agent --target x86_64-unknown-linux-gnu",
)


def cgroup2_mount() -> Path | None:
    """Where this machine has a cgroup2 tree that we may write, if anywhere."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(target, os.W_OK):
            return Path(target)
    return None


class Guest:
    """A running agent: where it listens, where it may write, and its commands' cgroup if there can be one."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "agent.sock"
        self.root = directory / "workspace"
        self.root.mkdir()
        mount = cgroup2_mount()
        self.cgroup = None if mount is None else mount / directory.name
        cgroup = [] if self.cgroup is None else ["--cgroup", self.cgroup]
        self.process = subprocess.Popen(
            [BINARY, "--channel", self.socket, "--write-root", self.root, "--services", directory, *cgroup],
            stdin=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """End the agent and all that it started."""
        self.process.kill()
        self.process.wait()
        if self.cgroup is None or not self.cgroup.exists():
            return
        (self.cgroup / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + 10
        while "populated 1" in (self.cgroup / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        for group in [*self.cgroup.glob("*/"), self.cgroup]:
            group.rmdir()

    def path(self, name: str) -> str:
        return str(self.root / name)

    def run(self, command: str, **fields: object) -> ExecRequest:
        return ExecRequest(exec_id=new_exec_id(), command=command, cwd=str(self.root), **fields)


@pytest.fixture
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="terp-agent-") as name:
        running = Guest(Path(name))
        try:
            yield running
        finally:
            running.stop()


def wake_up(**fields: object) -> WakeUp:
    return WakeUp(entropy=os.urandom(32), unix_time_ns=time.time_ns(), **fields)


async def listening(guest: Guest) -> None:
    while True:
        assert guest.process.poll() is None, "the agent ended"
        try:
            await (await GuestClient.connect(guest.socket, fresh=True)).close()
        except errors.GuestFault:  # not bound yet, or bound and not listening
            await asyncio.sleep(0.01)
        else:
            return


@asynccontextmanager
async def awake(guest: Guest, **fields: object) -> AsyncIterator[GuestClient]:
    await listening(guest)
    client = await GuestClient.connect_and_wake(guest.socket, wake_up(**fields), fresh=True)
    try:
        yield client
    finally:
        await client.close()


async def only_left(client: GuestClient, guest: Guest, expected: set[str]) -> None:
    """Wait until the workspace holds just these: a cancelled write is undone a little later."""
    while {info.name for info in await client.list_files(str(guest.root))} != expected:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def read(client: GuestClient, path: str, **limits: int) -> bytes:
    return b"".join([chunk async for chunk in client.read_file(path, **limits)])


async def collect(events: AsyncIterator[ExecEvent]) -> tuple[bytes, bytes, ExecExited]:
    """Stdout, stderr and exit of a command; checks that it starts, ends and misses nothing."""
    out = {OutputStream.STDOUT: b"", OutputStream.STDERR: b""}
    exited, offset = None, 0
    assert isinstance(await anext(events), ExecStarted)
    async for event in events:
        if isinstance(event, ExecOutput):
            assert event.offset == offset
            offset += len(event.data)
            out[event.stream] += event.data
        else:
            assert isinstance(event, ExecExited)
            exited = event
    assert exited is not None
    return out[OutputStream.STDOUT], out[OutputStream.STDERR], exited


# ---- session


async def test_a_guest_is_woken_and_says_so(guest: Guest) -> None:
    """Hello says booted before, awake after, and the boot id stays."""
    async with awake(guest) as client:
        before, after = client.greeting, await client.hello()
        await client.ping()
    assert (before.state, after.state) == ("booted", "awake")
    assert before.boot_id == after.boot_id


async def test_a_frozen_guest_serves_nothing_until_it_is_woken(guest: Guest) -> None:
    """Freeze stops service; Wake brings it back with a new environment."""
    if guest.cgroup is None:
        pytest.skip("no cgroup2 tree to freeze")
    async with awake(guest, env={"WHO": "first"}) as client:
        await client.freeze(drop_page_cache=False)
        with pytest.raises(errors.Unavailable):
            await client.list_files(str(guest.root))
        await client.ping()
        await client.wake(wake_up(env={"WHO": "second"}))
        out, _, _ = await collect(client.exec(guest.run("echo $WHO")))
    assert out == b"second\n"


async def test_figures_are_sane(guest: Guest) -> None:
    """Used memory and disk do not exceed what there is."""
    async with awake(guest) as client:
        stats = await client.stats()
    assert stats.memory_total_bytes > 0
    assert stats.memory_used_bytes <= stats.memory_total_bytes
    assert 0 < stats.disk_used_bytes <= stats.disk_total_bytes


def test_uvloop_serves_as_well(guest: Guest) -> None:
    """The channel works on the loop that the server runs."""

    async def scenario() -> bytes:
        async with awake(guest) as client:
            size = await client.write_file(guest.path("f"), pieces(b"x" * 300_000, b"y"), 0o600)
            assert size == 300_001
            assert await read(client, guest.path("f")) == b"x" * 300_000 + b"y"
            return (await collect(client.exec(guest.run("cat f | wc -c"))))[0]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()).strip() == b"300001"


# ---- commands


async def test_a_command_s_streams_code_and_environment_come_through(guest: Guest) -> None:
    """Stdout, stderr, the exit code, cwd and both environments are as asked."""
    async with awake(guest, env={"A": "sandbox", "B": "sandbox"}) as client:
        request = guest.run("echo $A $B; pwd; echo bad >&2; exit 7", env={"B": "command"})
        out, err, exited = await collect(client.exec(request))
    assert out.decode() == f"sandbox command\n{guest.root}\n"
    assert err == b"bad\n"
    assert (exited.exit_code, exited.signal, exited.timed_out) == (7, None, False)


async def test_input_larger_than_any_buffer_is_echoed_whole(guest: Guest) -> None:
    """Stdin and stdout flow at the same time under both credits."""
    data = os.urandom(1 << 20) * 3
    async with awake(guest) as client:
        out, _, exited = await collect(client.exec(guest.run("cat", stdin=data)))
    assert out == data
    assert exited.exit_code == 0


async def test_a_request_longer_than_a_frame_arrives(guest: Guest) -> None:
    """PART frames carry what one OPEN cannot."""
    async with awake(guest) as client:
        text = "x" * 90_000
        env = {f"V{number}": "y" * 90_000 for number in range(3)}
        out, _, _ = await collect(client.exec(guest.run(f"printf %s {text} $V0 $V1 $V2 | wc -c", env=env)))
    assert out.strip() == b"360000"


async def test_a_signal_and_a_timeout_end_a_command(guest: Guest) -> None:
    """What killed the command is told: the signal, and whether it was the timeout."""
    async with awake(guest) as client:
        request = guest.run("sleep 60")
        events = client.exec(request)
        started = await anext(events)
        await client.signal(request.exec_id, signal.SIGTERM)
        rest = [event async for event in events]
        _, _, late = await collect(client.exec(guest.run("sleep 60", timeout_s=0.2)))
    assert isinstance(started, ExecStarted)
    assert isinstance(rest[-1], ExecExited)
    assert (rest[-1].exit_code, rest[-1].signal, rest[-1].timed_out) == (143, 15, False)
    assert (late.exit_code, late.signal, late.timed_out) == (143, 15, True)


async def test_a_killed_command_does_not_harm_the_ones_after_it(guest: Guest) -> None:
    """Signal 9 takes a command and all it started, and nothing that is started later."""
    async with awake(guest) as client:
        for _ in range(3):
            request = guest.run("(sleep 61 &) ; sleep 60")
            events = client.exec(request)
            await anext(events)
            await client.signal(request.exec_id, signal.SIGKILL)
            assert [event.signal async for event in events if isinstance(event, ExecExited)] == [9]
            out, _, exited = await collect(client.exec(guest.run("echo alive")))
            assert (out, exited.exit_code) == (b"alive\n", 0)


async def test_a_slow_reader_holds_back_its_command_and_nothing_else(guest: Guest) -> None:
    """With a window full of untaken output the guest still serves other calls, and nothing is lost in the end."""
    async with awake(guest) as client, aclosing(client.exec(guest.run("yes 1234567 | head -c 8000000"))) as events:
        await anext(events)
        first = await anext(events)
        for _ in range(10):
            await client.ping()
        assert (await collect(client.exec(guest.run("echo other"))))[0] == b"other\n"
        assert isinstance(first, ExecOutput)
        rest = [event.data async for event in events if isinstance(event, ExecOutput)]
    assert first.data + b"".join(rest) == b"1234567\n" * 1_000_000


async def test_a_detached_command_runs_on_and_is_attached_by_offset(guest: Guest) -> None:
    """Closing the iterator leaves the command; attach gives its output from any offset, and its end."""
    request = guest.run("echo one; read -t 60 x < gate; echo two")
    os.mkfifo(guest.root / "gate")
    async with awake(guest) as client:
        async with aclosing(client.exec(request)) as events:
            while not isinstance(await anext(events), ExecOutput):
                pass
        (guest.root / "gate").write_text("go\n")
        events = client.attach(request.exec_id, 4)
        assert isinstance(await anext(events), ExecStarted)
        output, exited = [event async for event in events]
    assert output == ExecOutput(OutputStream.STDOUT, b"two\n", 4)
    assert isinstance(exited, ExecExited)


async def follow(events: AsyncIterator[ExecEvent], into: bytearray) -> None:
    """Keep what a command writes until its end, or its session's."""
    assert isinstance(await anext(events), ExecStarted)
    async for event in events:
        if isinstance(event, ExecOutput):
            assert event.offset == len(into)
            into += event.data


async def test_streams_go_on_behind_a_freeze(guest: Guest) -> None:
    """Input and output of commands flow across many snapshots, each with a session of its own, without a gap."""
    if guest.cgroup is None:
        pytest.skip("no cgroup2 tree to freeze")
    data = os.urandom(1 << 20) * 8
    request, output = guest.run("cat", stdin=data), bytearray()
    await listening(guest)
    client = await GuestClient.connect_and_wake(guest.socket, wake_up(), fresh=True)
    events = client.exec(request)
    for _ in range(8):
        following = asyncio.create_task(follow(events, output))
        target = len(output) + 500_000
        while len(output) < target:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await client.freeze(drop_page_cache=False)
        await client.close()
        with pytest.raises(errors.GuestFault):
            await following
        client = await GuestClient.connect_and_wake(guest.socket, wake_up(), fresh=True)
        events = client.attach(request.exec_id, len(output), stdin=data)
    await follow(events, output)
    await client.close()
    assert output == data


async def test_a_snapshot_that_is_given_up_leaves_no_trace(guest: Guest) -> None:
    """After a freeze and a wake in one session its commands' streams go on by themselves."""
    if guest.cgroup is None:
        pytest.skip("no cgroup2 tree to freeze")
    async with awake(guest) as client:
        output = bytearray()
        following = asyncio.create_task(follow(client.exec(guest.run("seq 1000000")), output))
        for _ in range(5):
            target = len(output) + 100_000
            while len(output) < target:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await client.freeze(drop_page_cache=False)
            await client.wake(wake_up(keep_env=True))
        await following
    assert output == b"".join(b"%d\n" % number for number in range(1, 1_000_001))


async def test_a_fork_s_environment_is_over_its_source_s(guest: Guest) -> None:
    """What was there stays where nothing new is given."""
    async with awake(guest, env={"A": "old", "B": "old"}) as client:
        await client.wake(wake_up(env={"B": "new"}, keep_env=True, forked=True))
        out, _, _ = await collect(client.exec(guest.run("echo $A $B")))
    assert out == b"old new\n"


async def test_refused_commands_say_why(guest: Guest) -> None:
    """No such exec, an id used twice, a cwd that is not there: each its own error."""
    async with awake(guest) as client:
        request = guest.run("true")
        await collect(client.exec(request))
        with pytest.raises(errors.AlreadyExists):
            await collect(client.exec(request))
        with pytest.raises(errors.ExecNotFound):
            await collect(client.attach(ExecId("cmd_unknown"), 0))
        with pytest.raises(errors.ExecNotFound):
            await client.signal(ExecId("cmd_unknown"), 9)
        with pytest.raises(errors.InvalidRequest):
            await collect(client.exec(ExecRequest(exec_id=new_exec_id(), command="true", cwd="/no/such/place")))


async def test_many_calls_at_once_keep_apart(guest: Guest) -> None:
    """Forty commands and their output do not mix."""

    async def one(number: int) -> bytes:
        return (await collect(client.exec(guest.run(f"echo {number}; cat", stdin=b"%d" % number))))[0]

    async with awake(guest) as client:
        outputs = await asyncio.gather(*(one(number) for number in range(40)))
    assert outputs == [b"%d\n%d" % (number, number) for number in range(40)]


# ---- files


async def test_a_file_is_written_whole_and_read_back_in_part(guest: Guest) -> None:
    """Contents, mode, parents, offset and limit are as asked."""
    data = os.urandom(700_001)
    async with awake(guest) as client:
        written = await client.write_file(guest.path("new/dir/f"), pieces(data[:5], b"", data[5:]), 0o640)
        assert written == len(data)
        assert await read(client, guest.path("new/dir/f")) == data
        assert await read(client, guest.path("new/dir/f"), offset=5, limit=300_000) == data[5:300_005]
        info = await client.stat_file(guest.path("new/dir/f"))
        await client.write_file(guest.path("empty"), pieces(), 0o644)
        assert await read(client, guest.path("empty")) == b""
    assert info is not None
    assert (info.name, info.size, info.mode, info.is_dir) == ("f", len(data), 0o640, False)


async def test_a_write_that_is_given_up_changes_nothing(guest: Guest) -> None:
    """The old file stays, and no temporary one is left."""

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise errors.TooLarge("too large")

    async with awake(guest) as client:
        await client.write_file(guest.path("f"), pieces(b"old"), 0o644)
        with pytest.raises(errors.TooLarge):
            await client.write_file(guest.path("f"), broken(), 0o644)
        assert await read(client, guest.path("f")) == b"old"
        await only_left(client, guest, {"f"})


async def test_directories_are_made_listed_moved_and_removed(guest: Guest) -> None:
    """The small calls do what they say."""
    async with awake(guest) as client:
        await client.make_directory(guest.path("a/b"), parents=True)
        await client.write_file(guest.path("a/b/f"), pieces(b"1"), 0o644)
        await client.move_file(guest.path("a/b/f"), guest.path("c/g"))
        listed = {info.name: info.is_dir for info in await client.list_files(str(guest.root))}
        with pytest.raises(errors.InvalidRequest):
            await client.remove_file(guest.path("a"), recursive=False)
        await client.remove_file(guest.path("a"), recursive=True)
        assert await client.stat_file(guest.path("a")) is None
        assert [info.name for info in await client.list_files(guest.path("c"))] == ["g"]
    assert listed == {"a": True, "c": True}


async def test_a_directory_of_thousands_is_listed_whole(guest: Guest) -> None:
    """More entries than one reply carries, with names as long as names get."""
    expected = {f"{number:05}{'n' * 200}" for number in range(3000)}
    for name in expected:
        (guest.root / name).touch()
    async with awake(guest) as client:
        listed = {info.name for info in await client.list_files(str(guest.root))}
    assert listed == expected


async def test_names_that_are_not_text_are_shown_and_are_no_fault(guest: Guest) -> None:
    """A guest may create any name; listing it must not cost the session."""
    os.mknod(os.fsencode(guest.root) + b"/bad\xff\nname")
    async with awake(guest) as client:
        (info,) = await client.list_files(str(guest.root))
    assert info.name == "bad\ufffd\nname"


async def test_refused_file_calls_say_why(guest: Guest) -> None:
    """Each kind of refusal is the error that the port names."""
    outside = str(guest.root.parent / "outside")
    async with awake(guest) as client:
        with pytest.raises(errors.FileNotFound):
            await read(client, guest.path("absent"))
        with pytest.raises(errors.InvalidRequest):
            await read(client, str(guest.root))
        with pytest.raises(errors.InvalidRequest):
            await read(client, "/dev/zero")
        with pytest.raises(errors.NotPermitted):
            await client.write_file(outside, pieces(b"x"), 0o644)
        with pytest.raises(errors.NotPermitted):
            await client.make_directory(outside, parents=True)
        with pytest.raises(errors.FileNotFound):
            await client.move_file(guest.path("absent"), guest.path("there"))
        await client.ping()


# ---- hosts that die


async def test_a_lost_agent_fails_what_is_under_way(guest: Guest) -> None:
    """When the guest's end is gone, a waiting exec ends with GuestFault at once."""
    async with awake(guest) as client:
        events = client.exec(guest.run("sleep 60"))
        await anext(events)
        guest.process.kill()
        with pytest.raises(errors.GuestFault):
            await anext(events)


def torn_frames() -> list[pytest.ParameterSet]:
    whole = {
        "data": encode(3, FrameType.DATA, b"\xf4" * 65_536),
        "open": encode_request(3, wire.Request(ping=wire.Ping()).SerializeToString()),
        "part": encode(3, FrameType.PART, bytes(65_536)),
    }
    return [
        pytest.param(frame[:cut], id=f"{name}-{cut}")
        for name, frame in whole.items()
        for cut in sorted({0, 1, 4, 8, 9, len(frame) // 2, len(frame) - 1})
    ]


@pytest.mark.parametrize("torn", torn_frames())
async def test_a_host_that_died_in_a_frame_is_followed_by_one_that_works(guest: Guest, torn: bytes) -> None:
    """Through a port that hides the change of hosts, the next host's session starts clean."""
    await listening(guest)
    path = guest.root.parent / "port.sock"
    async with serial_port(guest.socket, path) as port:
        with socket.socket(socket.AF_UNIX) as dying:
            dying.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(dying, str(path))
            await loop.sock_sendall(dying, preface(b"d" * 16) + torn)
            await port.received(32 + len(torn))
        await port.vacant()
        client = await GuestClient.connect_and_wake(path, wake_up(), fresh=False)
        out, _, _ = await collect(client.exec(guest.run("echo alive")))
        await client.close()
    assert out == b"alive\n"


DYING_HOST = """
import asyncio, sys
from pathlib import Path
from terpd.model.guest import ExecRequest
from terpd.node.guest.client import GuestClient

async def endless():
    while True:
        yield bytes(100_000)

async def main():
    client = await GuestClient.connect(Path(sys.argv[1]), fresh=False)
    events = client.exec(ExecRequest(exec_id=sys.argv[3], command="yes", cwd=sys.argv[2]))
    await anext(events)
    async def consume():
        async for _ in events:
            pass
    await asyncio.gather(consume(), client.write_file(sys.argv[2] + "/half", endless(), 0o644))

asyncio.run(main())
"""


async def test_a_host_killed_at_full_speed_is_followed_by_one_that_works(guest: Guest) -> None:
    """After kill -9 amid traffic both ways: leftovers are skipped, the half write is undone, the exec goes on."""
    await listening(guest)
    path = guest.root.parent / "port.sock"
    async with serial_port(guest.socket, path) as port:
        for round_ in range(1, 4):
            exec_id = ExecId(f"cmd_{round_}")
            before = port.from_host_bytes
            host = await asyncio.create_subprocess_exec(
                sys.executable, "-c", DYING_HOST, path, guest.root, exec_id, cwd=ROOT / "src"
            )
            await port.received(before + 3_000_000)
            host.kill()
            await host.wait()
            await port.vacant()
            client = await GuestClient.connect(path, fresh=False)
            async with aclosing(client.attach(exec_id, 0)) as events:
                assert isinstance(await anext(events), ExecStarted)
                assert isinstance(await anext(events), ExecOutput)
            await client.signal(exec_id, signal.SIGKILL)
            await only_left(client, guest, set())
            await client.close()
            await port.vacant()


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_services_are_reached_in_both_directions(guest: Guest, size: int) -> None:
    """A program of the guest reads what the host sends to its end, and answers; then its end comes too."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).swapcase())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, guest.socket.parent / "swap.sock")
    async with server, awake(guest) as client, client.connect_service("swap") as stream:
        await stream.send(b"a" * size)
        await stream.finish()
        answered = b""
        while (piece := await stream.receive()) is not None:
            assert 0 < len(piece) <= 65_536
            answered += piece
        assert answered == b"A" * size
        assert await stream.receive() is None


async def test_services_that_do_not_answer(guest: Guest) -> None:
    """Nobody listens; the program leaves; the stream is left; the session is lost."""
    left = asyncio.Event()

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(3) != b"bye":
            await reader.read()
            left.set()
        writer.close()

    async with awake(guest) as client:
        with pytest.raises(errors.NotFound):
            await client.connect_service("nobody").__aenter__()
        with pytest.raises(errors.InvalidRequest):
            await client.connect_service("../agent").__aenter__()
        async with await asyncio.start_unix_server(leave, guest.socket.parent / "leaver.sock"):
            async with client.connect_service("leaver") as stream:
                await stream.send(b"bye")
                assert await stream.receive() is None
                await stream.send(b"nobody reads this")
            async with client.connect_service("leaver") as stream:
                await stream.send(b"stay")
            await asyncio.wait_for(left.wait(), 10)
            async with client.connect_service("leaver") as stream:
                await client.close()
                with pytest.raises(errors.GuestFault):
                    await stream.receive()


async def test_files_are_watched(guest: Guest) -> None:
    """What happens is told in order, behind READY; a watch that is left is over in the guest too."""
    async with awake(guest) as client:
        events = client.watch_files(str(guest.root), recursive=True)
        assert await anext(events) == FileEvent(FileChange.READY, str(guest.root), is_dir=True)
        await client.make_directory(guest.path("made"), parents=False)
        assert await anext(events) == FileEvent(FileChange.CREATED, guest.path("made"), is_dir=True)
        await client.move_file(guest.path("made"), guest.path("moved"))
        moved = FileEvent(FileChange.MOVED, guest.path("moved"), is_dir=True, moved_from=guest.path("made"))
        assert await anext(events) == moved
        (guest.root / os.fsdecode(b"\xff")).write_bytes(b"")
        assert (await anext(events)).path == guest.path("\ufffd")
        await events.aclose()
        with pytest.raises(errors.FileNotFound):
            await anext(client.watch_files(guest.path("none"), recursive=False))


async def test_thousands_of_changes_flow_under_credit(guest: Guest) -> None:
    """Far more events than any credit, with paths of some length, come one by one to who reads them."""
    directory = guest.root / ("d" * 200)
    directory.mkdir()
    async with awake(guest) as client, aclosing(client.watch_files(str(guest.root), recursive=True)) as events:
        await anext(events)
        for round_ in range(30):
            names = {f"{round_}-{index}" for index in range(100)}
            for name in names:
                (directory / name).symlink_to("nowhere")
            assert {(await anext(events)).path for _ in names} == {str(directory / name) for name in names}


async def test_trees_go_there_and_back(guest: Guest) -> None:
    """A tree of some size in both directions, and a stream that is none."""
    (guest.root / "tree" / "deep").mkdir(parents=True)
    (guest.root / "tree" / "deep" / "file").write_bytes(os.urandom(3_000_000))
    (guest.root / "tree" / "link").symlink_to("deep/file")

    async def chunks(content: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(content), 100_000):
            yield content[at : at + 100_000]

    async with awake(guest) as client:
        stream = b"".join([chunk async for chunk in client.read_archive(guest.path("tree"))])
        with tarfile.open(fileobj=io.BytesIO(stream)) as found:
            assert sorted(found.getnames()) == ["deep", "deep/file", "link"]
        made = await client.write_archive(guest.path("copy"), chunks(stream))
        assert made == Extracted(files=3, size=3_000_000)
        assert (guest.root / "copy/link").read_bytes() == (guest.root / "tree/deep/file").read_bytes()
        for wrong in (b"", b"no tar" * 1000, stream[:1_000_000]):
            with pytest.raises(errors.InvalidRequest):
                await client.write_archive(guest.path("copy"), chunks(wrong))
        with pytest.raises(errors.NotPermitted):
            await client.write_archive("/var/none", chunks(stream))
        with pytest.raises(errors.FileNotFound):
            await anext(client.read_archive(guest.path("none")))
