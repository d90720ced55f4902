"""What the guest's client makes of an agent's words about commands and variables, true or not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Self

import pytest
from support.scripted_agent import Host, scripted_agent

from terpd.model.errors import (
    ExecNotFound,
    GuestFault,
    InvalidRequest,
    LimitExceeded,
    SecretsInUse,
    TerpError,
)
from terpd.model.guest import CommandInfo, ExecExited, ExecRequest, ExecStarted, LogPage, PtySize
from terpd.model.ids import ExecId
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.client import GuestClient
from terpd.node.guest.frames import FrameType

ID = ExecId("cmd_01JG0000000000000000000000")


class Connected:
    """A client, and the requests that its agent got; *answers* are given one a request: replies, data and END."""

    def __init__(self, directory: Path, *answers: tuple[list[wire.Reply | bytes], int]) -> None:
        self.requests: list[wire.Request] = []
        self._agent = scripted_agent(directory, self._script)
        self._answers = list(answers)

    async def __aenter__(self) -> Self:
        self.client = await GuestClient.connect(await self._agent.__aenter__(), fresh=True)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()
        await self._agent.__aexit__(None, None, None)

    async def _script(self, host: Host) -> None:
        await host.greet()
        for answer, code in self._answers:
            stream, request = await host.request()
            self.requests.append(request)
            for part in answer:
                if isinstance(part, bytes):
                    host.send(stream, FrameType.DATA, part)
                else:
                    host.send(stream, FrameType.MESSAGE, part.SerializeToString())
            host.end(stream, code)
        await host.silence()


def entry(**fields: object) -> wire.ExecEntry:
    return wire.ExecEntry(**{"exec_id": ID, "command": "x", "pid": 7, "started_ns": 10**9, **fields})


def listed(*entries: wire.ExecEntry) -> tuple[list[wire.Reply | bytes], int]:
    return [wire.Reply(exec_entries=wire.ExecEntries(entries=entries))], wire.Status.OK


def page(*data: bytes, **info: object) -> tuple[list[wire.Reply | bytes], int]:
    return [wire.Reply(exec_log=wire.ExecLogInfo(**info)), *data], wire.Status.OK


def failing(code: int) -> tuple[list[wire.Reply | bytes], int]:
    return [], code


async def test_a_start_that_nobody_follows(tmp_path: Path) -> None:
    """Its one event is that it runs; the agent is told all of it."""
    started: tuple[list[wire.Reply | bytes], int] = [wire.Reply(exec_started=wire.ExecStarted(pid=7))], wire.Status.OK
    async with Connected(tmp_path, started, started) as it:
        background = ExecRequest(ID, "x", secrets={"A": "1"}, background=True, timeout_s=None)
        assert [event async for event in it.client.exec(background)] == [ExecStarted(7)]
        terminal = ExecRequest(ID, "x", pty=PtySize(80, 24), timeout_s=None)
        assert [event async for event in it.client.exec(terminal)] == [ExecStarted(7)]

    first, second = (request.exec_start for request in it.requests)
    assert (first.background, dict(first.secrets), first.HasField("pty")) == (True, {"A": "1"}, False)
    assert (second.background, second.pty) == (False, wire.Pty(cols=80, rows=24))


async def test_what_is_listed(tmp_path: Path) -> None:
    gone = wire.ExecExited(exit_code=137, signal=9, duration_ms=5, oom_killed=True)
    other = entry(exec_id=ID[:-1] + "1", pty=True, exited=gone)
    async with Connected(tmp_path, listed(entry(), other), listed()) as it:
        first, second = await it.client.list_commands()
        assert await it.client.list_commands() == []
    at = dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)
    assert first == CommandInfo(ID, "x", 7, at, pty=False, exited=None)
    assert (second.pty, second.exited) == (True, ExecExited(137, 9, False, 5, oom_killed=True))


@pytest.mark.parametrize(
    "entries",
    [
        [entry(exec_id="../../etc")],
        [entry(exec_id="")],
        [entry(), entry()],
        [entry(command="x" * 4097)],
        [entry(pid=0)],
        [entry(pid=2**31)],
        [entry(exited=wire.ExecExited(exit_code=256))],
        [entry(started_ns=2**63 - 1), entry(started_ns=-(2**63), exec_id=ID[:-1] + "1", pid=0)],
    ],
)
async def test_lists_that_cannot_be_true(tmp_path: Path, entries: list[wire.ExecEntry]) -> None:
    async with Connected(tmp_path, listed(*entries)) as it:
        with pytest.raises(GuestFault):
            await it.client.list_commands()


async def test_pages_of_a_log(tmp_path: Path) -> None:
    """From where it was asked for, or from where the log begins now; beyond its end there is nothing."""
    exited = wire.ExecExited(exit_code=3)
    answers = [
        page(b"ab", b"c", first_offset=0, offset=5, size=8),
        page(b"x", first_offset=7, offset=7, size=8, exited=exited),
        page(first_offset=7, offset=8, size=8),
    ]
    async with Connected(tmp_path, *answers) as it:
        assert await it.client.read_log(ID, 5, 100) == LogPage(b"abc", 0, 5, 8, None)
        assert (await it.client.read_log(ID, 5, 100)).exited == ExecExited(3, None, False, 0)
        assert await it.client.read_log(ID, 20, 100) == LogPage(b"", 7, 8, 8, None)
    assert it.requests[0].exec_log == wire.ExecLog(exec_id=ID, offset=5, limit=100)


@pytest.mark.parametrize(
    "answer",
    [
        page(b"12345678901", first_offset=0, offset=5, size=100),
        page(first_offset=0, offset=4, size=100),
        page(first_offset=0, offset=6, size=100),
        page(first_offset=9, offset=9, size=8),
        page(b"abcd", first_offset=0, offset=5, size=8),
        page(first_offset=0, offset=5, size=2**63),
    ],
    ids=["more than asked for", "earlier", "later", "no log", "beyond its end", "no size"],
)
async def test_pages_that_cannot_be_true(tmp_path: Path, answer: tuple[list[wire.Reply | bytes], int]) -> None:
    async with Connected(tmp_path, answer) as it:
        with pytest.raises(GuestFault):
            await it.client.read_log(ID, 5, 10)


async def test_typing(tmp_path: Path) -> None:
    """With an offset, or appended; a guest that says it has less than it was given is at fault."""

    def accepted(offset: int) -> tuple[list[wire.Reply | bytes], int]:
        return [wire.Reply(exec_input=wire.ExecInputReply(offset=offset))], wire.Status.OK

    async with Connected(tmp_path, accepted(13), accepted(17), accepted(11)) as it:
        assert await it.client.send_input(ID, b"abc", offset=10) == 13
        assert await it.client.send_input(ID, b"abc") == 17
        with pytest.raises(GuestFault):
            await it.client.send_input(ID, b"abc", offset=10)
        with pytest.raises(InvalidRequest):
            await it.client.send_input(ID, bytes(32 * 1024 + 1))
    assert it.requests[0].exec_input == wire.ExecInput(exec_id=ID, offset=10, data=b"abc")
    assert not it.requests[1].exec_input.HasField("offset")


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        ("log", wire.Status.NOT_FOUND, ExecNotFound),
        ("type", wire.Status.NOT_FOUND, ExecNotFound),
        ("type", wire.Status.EXHAUSTED, LimitExceeded),
        ("type", wire.Status.INVALID, InvalidRequest),
        ("resize", wire.Status.NOT_FOUND, ExecNotFound),
        ("resize", wire.Status.INVALID, InvalidRequest),
        ("set", wire.Status.EXHAUSTED, LimitExceeded),
        ("freeze", wire.Status.BUSY, SecretsInUse),
    ],
)
async def test_refusals(tmp_path: Path, call: str, code: int, error: type[TerpError]) -> None:
    async with Connected(tmp_path, failing(code)) as it:
        acts = {
            "log": lambda: it.client.read_log(ID, 0, 1),
            "type": lambda: it.client.send_input(ID, b"x"),
            "resize": lambda: it.client.resize_pty(ID, PtySize(1, 1)),
            "set": lambda: it.client.change_env({"A": "1"}, []),
            "freeze": lambda: it.client.freeze(drop_page_cache=False, withhold_secrets=True),
        }
        with pytest.raises(error) as caught:
            await acts[call]()
    assert type(caught.value) is error


async def test_variables(tmp_path: Path) -> None:
    """They are set and unset in one request; names come back in order, and what was withheld with its values."""
    names = wire.Reply(env_names=wire.EnvNames(names=["A", "B"]))
    withheld = wire.Reply(freeze=wire.FreezeReply(ephemeral_env={"A": "1"}))
    async with Connected(tmp_path, failing(0), ([names], 0), ([withheld], 0), failing(0)) as it:
        await it.client.change_env({"A": "1"}, {"C", "B"})
        assert await it.client.env_names() == ["A", "B"]
        assert await it.client.freeze(drop_page_cache=False, withhold_secrets=True) == {"A": "1"}
        assert await it.client.freeze(drop_page_cache=False, withhold_secrets=True) == {}
    assert it.requests[0].env_change == wire.EnvChange(set={"A": "1"}, unset=["B", "C"])
    assert it.requests[2].freeze.withhold_secrets


@pytest.mark.parametrize(
    "reply",
    [
        wire.Reply(env_names=wire.EnvNames(names=["B", "A"])),
        wire.Reply(env_names=wire.EnvNames(names=["A", "A"])),
        wire.Reply(env_names=wire.EnvNames(names=sorted(f"A{n}" for n in range(257)))),
    ],
)
async def test_names_that_cannot_be_true(tmp_path: Path, reply: wire.Reply) -> None:
    async with Connected(tmp_path, ([reply], wire.Status.OK)) as it:
        with pytest.raises(GuestFault):
            await it.client.env_names()


async def test_more_withheld_than_there_can_be(tmp_path: Path) -> None:
    reply = wire.Reply(freeze=wire.FreezeReply(ephemeral_env={f"A{n}": "" for n in range(257)}))
    async with Connected(tmp_path, ([reply], wire.Status.OK)) as it:
        with pytest.raises(GuestFault):
            await it.client.freeze(drop_page_cache=False, withhold_secrets=True)
