"""The guest's client against agents that lie, flood, stall and vanish."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.scripted_agent import Host, scripted_agent

from terpd.model import errors
from terpd.model.errors import GuestFault
from terpd.model.guest import ExecExited, ExecOutput, ExecRequest, ExecStarted, OutputStream
from terpd.model.ids import ExecId
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest import channel, execs, files
from terpd.node.guest.client import GuestClient, WakeUp
from terpd.node.guest.faults import quote
from terpd.node.guest.frames import DRAIN, HEADER, FrameType, encode

Script = Callable[[Host], Awaitable[None]]
WAKE = WakeUp(entropy=bytes(32), unix_time_ns=1)


@asynccontextmanager
async def connected(directory: Path, script: Script) -> AsyncIterator[GuestClient]:
    """A client whose agent greets as it should and then follows *script*."""

    async def greet_first(host: Host) -> None:
        await host.greet()
        await script(host)

    async with scripted_agent(directory, greet_first) as path:
        client = await GuestClient.connect(path, fresh=True)
        try:
            yield client
        finally:
            await client.close()


def command(text: str = "x", **fields: object) -> ExecRequest:
    return ExecRequest(exec_id=ExecId("cmd_1"), command=text, **fields)


async def drain(client: GuestClient, request: ExecRequest | None = None) -> list[object]:
    return [event async for event in client.exec(request or command())]


async def read(client: GuestClient, path: str = "/f", **limits: int) -> bytes:
    return b"".join([chunk async for chunk in client.read_file(path, **limits)])


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


# ---- connecting


async def test_preface_hello_and_wake_travel_together(tmp_path: Path) -> None:
    """All three are on the wire before the agent has said anything, and the client has both answers."""

    async def script(host: Host) -> None:
        opening = await host.preface()
        hello, wake = await host.request(), await host.request()
        host.raw(opening)
        host.reply(hello[0], hello=wire.HelloReply(wire_version=1, state="frozen", boot_id=b"b" * 16))
        host.end(hello[0])
        host.reply(wake[0], wake=wire.WakeReply(clock_step_ns=5))
        host.end(wake[0])
        assert wake[1].wake == wire.Wake(entropy=bytes(32), unix_time_ns=1, env={"A": "1"}, keep_env=True, forked=True)
        await host.silence()

    async with scripted_agent(tmp_path, script) as path:
        waking = replace(WAKE, env={"A": "1"}, keep_env=True, forked=True)
        client = await GuestClient.connect_and_wake(path, waking, fresh=True)
        assert client.greeting.state == "frozen"
        assert client.greeting.boot_id == b"b" * 16
        await client.close()


@pytest.mark.parametrize("fresh", [True, False])
async def test_zeros_come_first_unless_the_guest_is_fresh(tmp_path: Path, *, fresh: bool) -> None:
    """Only a host that is not the first one completes what an earlier one may have cut off."""
    skipped: list[int] = []

    async def script(host: Host) -> None:
        await host.greet()
        skipped.append(host.skipped)

    async with scripted_agent(tmp_path, script) as path:
        client = await GuestClient.connect(path, fresh=fresh)
        await client.close()
    assert skipped == [0 if fresh else len(DRAIN)]


async def test_a_socket_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    """State directories may be deep."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with connected(deep, Host.silence) as client:
        assert client.greeting.state == "booted"


async def test_nobody_there_is_a_guest_fault(tmp_path: Path) -> None:
    """A socket that is absent, or that nobody listens on, is a lost guest."""
    with pytest.raises(GuestFault):
        await GuestClient.connect(tmp_path / "absent", fresh=True)


async def answer_nothing(host: Host) -> None:
    await host.silence()


async def answer_garbage(host: Host) -> None:
    await host.flood(b"\xf4garbage" * 1000)


async def answer_wrong_nonce(host: Host) -> None:
    host.raw((await host.preface())[:-1] + b"\0")
    await host.silence()


async def hang_up(host: Host) -> None:
    await host.preface()


async def hello_missing(host: Host) -> None:
    host.raw(await host.preface())
    stream, _ = await host.request()
    host.end(stream)
    await host.silence()


def greets(**fields: object) -> Script:
    async def script(host: Host) -> None:
        await host.greet(**fields)
        await host.silence()

    return script


@pytest.mark.parametrize(
    "script",
    [
        answer_nothing,
        answer_garbage,
        answer_wrong_nonce,
        hang_up,
        hello_missing,
        greets(wire_version=2),
        greets(wire_version=0),
        greets(state="root\x1b[0m"),
        greets(boot_id=b"short"),
        greets(agent_version="1" * 100),
        greets(agent_version="1\n2"),
    ],
)
async def test_an_agent_that_does_not_answer_properly_is_not_connected_to(tmp_path: Path, script: Script) -> None:
    """Connecting either gives a client or raises GuestFault, within its deadline."""
    async with scripted_agent(tmp_path, script) as path:
        with pytest.raises(GuestFault):
            await GuestClient.connect(path, fresh=True, timeout_s=0.5)


@pytest.mark.parametrize("code", [wire.Status.INVALID, wire.Status.INTERNAL, wire.Status.UNAVAILABLE, 99])
async def test_a_guest_that_refuses_to_wake_is_not_handed_out(tmp_path: Path, code: int) -> None:
    """Whatever the reason, connect_and_wake fails with GuestFault and closes the connection."""
    hung_up = asyncio.Event()

    async def script(host: Host) -> None:
        await host.greet()
        stream, _ = await host.request()
        host.end(stream, code, "no")
        await host.silence()
        hung_up.set()

    async with scripted_agent(tmp_path, script) as path:
        with pytest.raises(GuestFault):
            await GuestClient.connect_and_wake(path, WAKE, fresh=True)
        await asyncio.wait_for(hung_up.wait(), 10)


async def test_a_cancelled_connect_leaves_no_connection(tmp_path: Path) -> None:
    """A caller that gives up closes the socket."""
    arrived, hung_up = asyncio.Event(), asyncio.Event()

    async def script(host: Host) -> None:
        await host.preface()
        arrived.set()
        await host.silence()
        hung_up.set()

    async with scripted_agent(tmp_path, script) as path:
        connecting = asyncio.create_task(GuestClient.connect(path, fresh=True, timeout_s=60))
        await arrived.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(hung_up.wait(), 10)


# ---- losing the guest


async def test_a_lost_guest_fails_all_calls_under_way(tmp_path: Path) -> None:
    """Every pending call and every later one raises GuestFault, and `lost` says why."""

    async def script(host: Host) -> None:
        for _ in range(3):
            await host.request()

    async with connected(tmp_path, script) as client:
        outcomes = await asyncio.gather(client.ping(), drain(client), read(client), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [GuestFault] * 3
        assert isinstance(await client.lost, GuestFault)
        with pytest.raises(GuestFault):
            await client.stats()


async def test_what_arrived_before_the_loss_is_still_delivered(tmp_path: Path) -> None:
    """A command that ended just before its guest was lost has ended."""

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        host.reply(stream, exec_output=wire.ExecOutput(data=b"out"))
        host.reply(stream, exec_exited=wire.ExecExited(exit_code=1))
        host.end(stream)

    async with connected(tmp_path, script) as client:
        events = client.exec(command())
        first = await anext(events)
        await client.lost
        rest = [event async for event in events]
    assert first == ExecStarted(2)
    assert rest == [ExecOutput(OutputStream.STDOUT, b"out", 0), ExecExited(1, None, timed_out=False, duration_ms=0)]


def violation(*frames: bytes) -> Script:
    async def script(host: Host) -> None:
        await host.request()
        for frame in frames:
            host.raw(frame)
        await host.silence()

    return script


@pytest.mark.parametrize(
    "script",
    [
        violation(b"\xff" * 100),
        violation(HEADER.pack(2**32 - 1, 2, FrameType.MESSAGE)),
        violation(encode(2, FrameType.OPEN)),
        violation(encode(2, FrameType.MESSAGE, b"\xff\xff")),
        violation(encode(3, FrameType.END)),
        violation(encode(2, FrameType.CREDIT, b"\0\0\1\0")),
        violation(encode(2, FrameType.DATA, b"unasked")),
        violation(encode(2, FrameType.END, b"\xff")),
        violation(*[encode(1, FrameType.CREDIT, b"\0\0\0\1")] * 100),
    ],
)
async def test_a_broken_protocol_ends_the_session(tmp_path: Path, script: Script) -> None:
    """One frame out of place and the call in flight fails, without waiting for its deadline."""
    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault, match="protocol"):
            await client.ping(timeout_s=250)


async def test_a_silent_guest_fails_the_call_at_its_deadline_and_not_the_others(tmp_path: Path) -> None:
    """One call that is not answered is cancelled; the session goes on."""
    cancelled: list[tuple[int, int, bytes]] = []

    async def script(host: Host) -> None:
        await host.request()
        cancelled.append(await host.frame())
        stream, _ = await host.request()
        host.end(stream)
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault, match="not answered"):
            await client.ping(timeout_s=0.05)
        await client.ping()
        assert not client.lost.done()
    assert cancelled == [(2, FrameType.CANCEL, b"")]


async def test_a_guest_that_does_not_end_cancelled_calls_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream cannot be kept open by saying nothing."""
    monkeypatch.setattr(channel, "CANCEL_ANSWER_S", 0.01)
    async with connected(tmp_path, Host.silence) as client:
        with pytest.raises(GuestFault):
            await client.ping(timeout_s=0.01)
        assert "cancelled" in (await client.lost).detail


async def test_calls_at_once_are_bounded(tmp_path: Path) -> None:
    """A call too many is refused on the host, and the others wait on."""

    async def script(host: Host) -> None:
        for _ in range(256):
            await host.request()

    async with connected(tmp_path, script) as client:
        outcomes = await asyncio.gather(*(client.ping() for _ in range(257)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [GuestFault] * 256 + [errors.LimitExceeded]


# ---- what a guest says


@pytest.mark.parametrize(
    ("call", "code", "expected"),
    [
        ("read", wire.Status.NOT_FOUND, errors.FileNotFound),
        ("read", wire.Status.IS_DIRECTORY, errors.InvalidRequest),
        ("read", wire.Status.NOT_PERMITTED, errors.NotPermitted),
        ("read", wire.Status.NO_SPACE, errors.LimitExceeded),
        ("read", wire.Status.NOT_EMPTY, errors.Conflict),
        ("read", wire.Status.INTERNAL, errors.GuestFault),
        ("read", 99, errors.GuestFault),
        ("exec", wire.Status.NOT_FOUND, errors.InvalidRequest),
        ("exec", wire.Status.EXISTS, errors.AlreadyExists),
        ("exec", wire.Status.EXHAUSTED, errors.LimitExceeded),
        ("exec", wire.Status.UNAVAILABLE, errors.Unavailable),
        ("signal", wire.Status.NOT_FOUND, errors.ExecNotFound),
        ("ping", wire.Status.NOT_FOUND, errors.GuestFault),
    ],
)
async def test_a_status_becomes_the_error_of_its_meaning(
    tmp_path: Path, call: str, code: int, expected: type[errors.TerpError]
) -> None:
    """Each refusal is the model's error, with the guest's words escaped and cut."""

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.end(stream, code, '\x1b[31m"' + "long " * 1000)
        await host.silence()

    async with connected(tmp_path, script) as client:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "read": lambda: read(client),
            "exec": lambda: drain(client),
            "signal": lambda: client.signal(ExecId("cmd_1"), 9),
            "ping": client.ping,
        }
        with pytest.raises(expected) as caught:
            await calls[call]()
    assert type(caught.value) is expected
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 1000


def test_quoting_keeps_terminals_and_logs_safe() -> None:
    """Control characters, quotes and other scripts come out as ASCII, and little of it."""
    assert quote('a"b\n\x1b\u202e') == '"a\\"b\\n\\x1b\\u202e"'
    assert quote("x" * 1000).endswith("…")


def says(**arm: object) -> Script:
    """A script that answers the first request with one reply and END."""

    async def script(host: Host) -> None:
        stream, request = await host.request()
        if request.HasField("exec_start"):
            host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        host.reply(stream, **arm)
        host.end(stream)
        await host.silence()

    return script


@pytest.mark.parametrize(
    "exited",
    [
        wire.ExecExited(exit_code=-1),
        wire.ExecExited(exit_code=256),
        wire.ExecExited(exit_code=1, signal=9),
        wire.ExecExited(exit_code=128 + 65, signal=65),
        wire.ExecExited(duration_ms=2**64 - 1),
    ],
)
async def test_an_exit_that_cannot_be_is_a_fault(tmp_path: Path, exited: wire.ExecExited) -> None:
    """Exit code, signal and duration are checked against each other and their ranges."""
    async with connected(tmp_path, says(exec_exited=exited)) as client:
        with pytest.raises(GuestFault):
            await drain(client)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "n" * 1000])
async def test_a_name_that_no_file_has_is_a_fault(tmp_path: Path, name: str) -> None:
    """Names are single components; a guest cannot smuggle a path to whoever joins them."""
    async with connected(tmp_path, says(entries=wire.FileEntries(entries=[wire.FileInfo(name=name)]))) as client:
        with pytest.raises(GuestFault):
            await client.list_files("/workspace")


@pytest.mark.parametrize("info", [wire.FileInfo(size=2**63), wire.FileInfo(mode=0o10000)])
async def test_figures_out_of_range_are_a_fault(tmp_path: Path, info: wire.FileInfo) -> None:
    """Sizes and modes have bounds."""
    async with connected(tmp_path, says(file=info)) as client:
        with pytest.raises(GuestFault):
            await client.stat_file("/workspace/f")


@pytest.mark.parametrize("modified_ns", [-(2**63), 0, 2**63 - 1])
async def test_any_time_a_guest_can_say_is_a_time(tmp_path: Path, modified_ns: int) -> None:
    """No 64-bit count of nanoseconds overflows."""
    async with connected(tmp_path, says(file=wire.FileInfo(modified_ns=modified_ns))) as client:
        info = await client.stat_file("/workspace/f")
    assert info is not None
    assert 1677 <= info.modified_at.year <= 2262


async def test_a_stat_answers_under_the_name_that_was_asked_for(tmp_path: Path) -> None:
    """The guest's idea of the name is not used where the host knows it."""
    async with connected(tmp_path, says(file=wire.FileInfo(name="../../evil", size=3))) as client:
        info = await client.stat_file("/workspace/dir/")
    assert info is not None
    assert (info.name, info.size) == ("dir", 3)


async def test_a_file_is_never_longer_than_it_was_said_to_be(tmp_path: Path) -> None:
    """More bytes than the declared size, or than the limit, are a fault."""

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.reply(stream, file=wire.FileInfo(size=3))
        host.send(stream, FrameType.DATA, b"four")
        host.end(stream)
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault):
            await read(client)


async def test_a_limit_holds_against_the_guest(tmp_path: Path) -> None:
    """A guest that ignores the limit is at fault."""

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.reply(stream, file=wire.FileInfo(size=100))
        host.send(stream, FrameType.DATA, b"four")
        host.end(stream)
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault):
            await read(client, limit=3)


async def test_a_write_that_reports_another_size_is_a_fault(tmp_path: Path) -> None:
    """The guest must have written as much as it was sent."""

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        await host.frame()
        await host.frame()
        host.reply(stream, written=wire.FileWritten(size=99))
        host.end(stream)
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault):
            await client.write_file("/workspace/f", pieces(b"four"), 0o644)


async def test_a_write_that_is_refused_early_stops_sending(tmp_path: Path) -> None:
    """END in the middle of the data is the outcome, and the source is read no further."""
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(100_000)

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.end(stream, wire.Status.NO_SPACE, "disk full")
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(errors.LimitExceeded):
            await client.write_file("/workspace/f", endless(), 0o644)
    assert asked <= 4


async def test_a_write_whose_source_fails_is_cancelled(tmp_path: Path) -> None:
    """The source's own error reaches the caller, and the agent is told to undo."""
    kinds: list[int] = []

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise errors.TooLarge("too large")

    async def script(host: Host) -> None:
        await host.request()
        kinds.extend([(await host.frame())[1], (await host.frame())[1]])

    async with connected(tmp_path, script) as client:
        with pytest.raises(errors.TooLarge):
            await client.write_file("/workspace/f", broken(), 0o644)
        await client.lost
    assert kinds == [FrameType.DATA, FrameType.CANCEL]


async def test_a_write_waits_for_credit_and_a_stalled_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than the window is ever under way; a guest that takes nothing more is at fault."""
    monkeypatch.setattr(files, "STALL_S", 0.1)
    received = 0

    async def script(host: Host) -> None:
        nonlocal received
        await host.request()
        while (frame := await host.frame())[1] == FrameType.DATA:
            received += len(frame[2])

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault, match="not answered"):
            await client.write_file("/workspace/f", pieces(bytes(1_000_000)), 0o644)
        await client.lost
    assert received == 262_144


async def test_closing_an_exec_early_detaches(tmp_path: Path) -> None:
    """The agent is told that nobody listens; the session goes on."""
    kinds: list[int] = []

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        kinds.append((await host.frame())[1])
        host.end(stream, wire.Status.UNAVAILABLE)
        ping, _ = await host.request()
        host.end(ping)
        await host.silence()

    async with connected(tmp_path, script) as client:
        async with aclosing(client.exec(command())) as events:
            assert await anext(events) == ExecStarted(2)
        await client.ping()
    assert kinds == [FrameType.CANCEL]


async def test_a_quiet_command_is_told_from_a_dead_guest_by_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the guest answers pings a command may be quiet; when it does not, the exec fails."""
    monkeypatch.setattr(execs, "QUIET_S", 0.02)
    monkeypatch.setattr(execs, "ANSWER_S", 0.1)
    pings = 0

    async def script(host: Host) -> None:
        nonlocal pings
        stream, _ = await host.request()
        host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        while pings < 3:
            ping, _ = await host.request()
            host.end(ping)
            pings += 1
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault):
            await drain(client, command(timeout_s=None))
    assert pings == 3


async def test_a_guest_that_never_ends_a_command_is_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the command's own timeout and some grace, pings do not help."""
    monkeypatch.setattr(execs, "GRACE_S", 0.05)

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        while True:
            ping, _ = await host.request()
            host.end(ping)

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault, match="not answered"):
            await drain(client, command(timeout_s=0.05))


async def test_the_command_s_input_waits_for_credit_while_output_flows(tmp_path: Path) -> None:
    """More stdin than the window goes out as the guest takes it, and is closed at its end."""
    got = bytearray()

    async def script(host: Host) -> None:
        stream, request = await host.request()
        assert request.exec_start.stdin
        host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        while (payload := (await host.frame())[2]) != b"":
            got.extend(payload)
            host.send(stream, FrameType.CREDIT, len(payload).to_bytes(4, "big"))
        host.reply(stream, exec_exited=wire.ExecExited())
        host.end(stream)
        await host.silence()

    data = bytes(range(256)) * 4000
    async with connected(tmp_path, script) as client:
        events = await drain(client, command(stdin=data))
    assert isinstance(events[-1], ExecExited)
    assert bytes(got) == data


async def test_attach_refuses_output_from_before_the_offset(tmp_path: Path) -> None:
    """A later start is the ring's doing; an earlier one cannot be."""

    async def script(host: Host) -> None:
        stream, _ = await host.request()
        host.reply(stream, exec_started=wire.ExecStarted(pid=2))
        host.reply(stream, exec_output=wire.ExecOutput(data=b"x", offset=9))
        await host.silence()

    async with connected(tmp_path, script) as client:
        with pytest.raises(GuestFault):
            _ = [event async for event in client.attach(ExecId("cmd_1"), 10)]


@pytest.mark.parametrize(
    "payload",
    [
        encode(2, FrameType.MESSAGE, wire.Reply(exec_output=wire.ExecOutput(data=b"x" * 4096)).SerializeToString()),
        encode(2, FrameType.DATA, bytes(65_536)),
        encode(1, FrameType.END),
        bytes(65_536),
        encode(2, FrameType.MESSAGE, wire.Reply(entries=wire.FileEntries()).SerializeToString()),
    ],
    ids=["output", "data", "strays", "zeros", "empty entries"],
)
async def test_a_flood_ends_the_session_in_bounded_memory(tmp_path: Path, payload: bytes) -> None:
    """However much a guest sends, little is kept and the session is soon over."""

    async def script(host: Host) -> None:
        await host.request()
        await host.flood(payload)

    async with connected(tmp_path, script) as client:
        tracemalloc.start()
        with pytest.raises(GuestFault):
            await client.list_files("/")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8_000_000


# ---- what a host must not say


@pytest.mark.parametrize(
    "request_",
    [
        command(""),
        command("a\0b"),
        command("\udc80"),
        command(cwd="relative"),
        command(cwd="/" + "x" * 5000),
        command(env={"A=B": "c"}),
        command(env={"": "c"}),
        command(env={"A": "\0"}),
        command(timeout_s=0),
        command(timeout_s=float("nan")),
        command(argv=["also"]),
        ExecRequest(exec_id=ExecId("../x"), command="x"),
    ],
)
async def test_what_the_wire_does_not_carry_is_refused_before_it_is_sent(tmp_path: Path, request_: ExecRequest) -> None:
    """Bad requests never reach the guest."""
    async with connected(tmp_path, Host.silence) as client:
        with pytest.raises(errors.InvalidRequest):
            await drain(client, request_)


@pytest.mark.parametrize("path", ["", "relative", "/a\0b", "/" + "x" * 4096, "/\udc80"])
async def test_paths_are_checked_before_they_are_sent(tmp_path: Path, path: str) -> None:
    """A path is absolute, without NUL, UTF-8 and bounded."""
    async with connected(tmp_path, Host.silence) as client:
        with pytest.raises(errors.InvalidRequest):
            await client.list_files(path)
        with pytest.raises(errors.InvalidRequest):
            await client.move_file("/workspace/a", path)


async def test_a_request_above_the_wire_s_bound_is_too_large(tmp_path: Path) -> None:
    """Long commands and large environments are refused with their limit."""
    async with connected(tmp_path, Host.silence) as client:
        with pytest.raises(errors.TooLarge):
            await drain(client, command("x" * 200_000))
        with pytest.raises(errors.TooLarge):
            await drain(client, command(env={"A": "x" * 1_100_000}))
