"""Terp as a provider of the OpenAI Agents SDK: what becomes of machines and of errors. The rest needs real machines."""

from __future__ import annotations

import asyncio
import json

import pytest
from agents.sandbox import ExecTimeoutError, ExecTransportError
from agents.sandbox.errors import PtySessionNotFoundError

from terp import AsyncPty, AsyncTerp, StateConflict
from terp.integrations.openai_processes import MAX_HELD_BYTES, Process
from terp.integrations.openai_sandbox import TerpSandboxClient, TerpSandboxClientOptions

OTHER_ID = "sbx_01JG0000000000000000000001"
COMMAND = {
    "id": "cmd_1",
    "command": "make",
    "pid": 17,
    "status": "running",
    "exit_code": None,
    "started_at": "2026-01-01T00:00:00Z",
}


@pytest.fixture
async def client(server):
    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as connection:
        yield TerpSandboxClient(connection)


@pytest.fixture
async def session(server, client):
    server.reply(201, server.sandbox)
    return await client.create(options=TerpSandboxClientOptions(env={"A": "1"}, timeout=900))


def restored(client, session):
    """The session's state as another process reads it."""
    return client.deserialize_session_state(json.loads(json.dumps(client.serialize_session_state(session.state))))


async def test_options_are_those_of_a_create(server, client) -> None:
    server.reply(201, server.sandbox)
    server.reply(201, server.sandbox)

    await client.create(options=TerpSandboxClientOptions(from_snapshot="snap_1", pause_on_exit=True))
    await client.create()

    asked = server.sent(0)
    assert (asked["snapshot"], asked["on_timeout"]) == ("snap_1", "pause")
    assert server.sent(1)["on_timeout"] == "kill"


async def test_a_running_machine_is_found_again_with_a_new_lease(server, client, session) -> None:
    server.reply(body=server.sandbox)
    server.reply(body=server.sandbox)

    resumed = await client.resume(restored(client, session))

    assert resumed.state.sandbox_id == server.sandbox["id"]
    assert server.sent()["timeout_seconds"] == 900


async def test_a_paused_machine_goes_on(server, client, session) -> None:
    server.reply(body={**server.sandbox, "status": "paused"})
    server.reply(body=server.sandbox)

    await client.resume(restored(client, session))

    assert server.calls[-1] == f"POST /v1/sandboxes/{server.sandbox['id']}/resume"


@pytest.mark.parametrize("gone", [True, False])
async def test_a_machine_that_is_gone_is_replaced(server, client, session, gone) -> None:
    if gone:
        server.reply(404, {"code": "sandbox_not_found", "message": "no"})
    else:
        server.reply(body={**server.sandbox, "status": "terminated"})
    server.reply(201, {**server.sandbox, "id": OTHER_ID})

    resumed = await client.resume(restored(client, session))

    assert resumed.state.sandbox_id == OTHER_ID
    assert server.sent()["env"] == {"A": "1"}


async def test_deleting_is_best_effort(server, client, session, caplog) -> None:
    """The SDK deletes at the end of a run, whose result is not to be lost."""
    server.reply(403, {"code": "forbidden", "message": "The API key lacks a scope"})

    await client.delete(session)

    assert "The API key lacks a scope" in caplog.text


async def test_commands_end_as_the_sdk_knows_it(server, session) -> None:
    server.exec(server.started, server.chunk(b"\xff"), {"kind": "error", "code": "exec_killed", "signal": 9})
    server.exec(server.started, {"kind": "error", "code": "exec_timeout", "message": "slow"})
    server.reply(409, {"code": "state_conflict", "message": "It is paused"})

    killed = await session.exec("x", timeout=0.2)
    with pytest.raises(ExecTimeoutError):
        await session.exec("x", timeout=0.2)
    with pytest.raises(ExecTransportError, match="It is paused") as refused:
        await session.exec("x")

    assert (killed.stdout, killed.exit_code) == (b"\xff", 137)
    assert server.sent(1)["timeout_seconds"] == 1  # rounded up
    assert refused.value.context["reason"] == "state_conflict"


async def test_output_that_nobody_asked_for_is_bounded(server, session) -> None:
    """What came last is kept; the number is good until the end was told."""
    server.reply(201, COMMAND)
    flood = [server.chunk(b"x" * 700_000, offset=index * 700_000) for index in range(3)]
    server.exec(server.started, *flood, server.chunk(b"end", offset=2_100_000), server.exited(3))

    update = await session.pty_exec_start("x", yield_time_s=30)

    assert (update.process_id, update.exit_code) == (None, 3)
    assert len(update.output) == MAX_HELD_BYTES
    assert update.output.endswith(b"xend")
    with pytest.raises(PtySessionNotFoundError):
        await session.pty_write_stdin(session_id=1, chars="")


class Ending(AsyncPty):
    """A terminal that ends while somebody types."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    async def output(self, offset=0):
        await self._over.wait()
        yield b"bye"

    async def wait(self, timeout=None):
        return 4

    async def write(self, data):
        self._over.set()
        raise StateConflict("It has ended")


async def test_a_terminal_that_ends_while_somebody_types_has_ended() -> None:
    process = Process(Ending())

    await process.type("x")

    assert (await process.output(0), process.exit_code, process.ended) == ("bye", 4, True)


async def test_a_command_without_a_terminal_takes_no_input(server, session) -> None:
    server.reply(201, COMMAND)
    server.exec(server.started, server.exited())
    process = Process(await session._inner.sandbox.start("make"))

    with pytest.raises(RuntimeError, match=r"^stdin is not available for this process$"):
        await process.type("x")

    await process.output(30_000)
