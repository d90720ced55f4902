"""Previews: names of ports, tokens, and the way to what listens there."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.api import KEYS, POLICY
from support.controlled import Controlled, controlled
from support.sandboxes import TENANT, make_sandbox

from terpd.control.awake import Awake
from terpd.control.previews import Previews
from terpd.model.errors import (
    InvalidRequest,
    NetworkBlocked,
    SandboxNotFound,
    StateConflict,
    Unauthenticated,
    Unavailable,
)
from terpd.model.ids import TenantId
from terpd.model.sandbox import Network, Sandbox, Status
from terpd.sealing.keyring import KeyRing


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Controlled]:
    async with controlled(tmp_path, dataclasses.replace(POLICY, preview_base="p.example")) as world:
        yield world


@pytest.fixture
async def greeter() -> AsyncIterator[tuple[str, int]]:
    """A server that says hello."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()


async def listening(world: Controlled, greeter: tuple[str, int], **options: object) -> tuple[Sandbox, str]:
    """A sandbox in which port 3000 is the greeter, and the label of that port's preview."""
    sandbox = await world.create(**{"network": Network.RESTRICTED, **options})
    world.node.machines[sandbox.id].listening[3000] = greeter
    host = await world.services.previews.host(TENANT, sandbox.id, 3000)
    return sandbox, host.partition(".")[0]


async def hears(world: Controlled, label: str, token: str | None = None) -> bytes:
    preview = await world.services.previews.open(label, token)
    with preview.socket as connection:
        return await asyncio.get_running_loop().sock_recv(connection, 100)


# ---- names ----


async def test_host(world: Controlled) -> None:
    """The port, the id in lower case, the base: for every sandbox that lives and has a network."""
    sandbox = await world.create(network=Network.OPEN)
    host = await world.services.previews.host(TENANT, sandbox.id, 65535)
    assert re.fullmatch(r"65535-[0-9a-z]{26}\.p\.example", host)
    assert host == f"65535-{world.services.previews.host_base(sandbox.id)}"
    assert host.partition(".")[0].partition("-")[2].upper() == sandbox.id.removeprefix("sbx_")
    await world.services.pause(TENANT, sandbox.id)
    assert await world.services.previews.host(TENANT, sandbox.id, 65535) == host


async def test_no_host(world: Controlled) -> None:
    """Without a network, after the end, for others, for what is no port."""
    sandbox, without = await world.create(network=Network.OPEN), await world.create()
    with pytest.raises(NetworkBlocked, match="restricted"):
        await world.services.previews.host(TENANT, without.id, 80)
    with pytest.raises(SandboxNotFound):
        await world.services.previews.host(TenantId("other"), sandbox.id, 80)
    for port in (0, 65536):
        with pytest.raises(InvalidRequest, match="port"):
            await world.services.previews.host(TENANT, sandbox.id, port)
    await world.services.terminate(TENANT, sandbox.id)
    with pytest.raises(StateConflict, match="terminated"):
        await world.services.previews.host(TENANT, sandbox.id, 80)


# ---- the way in ----


async def test_preview_is_reached(world: Controlled, greeter: tuple[str, int]) -> None:
    """Who has the name needs nothing else; letters may be of any case."""
    sandbox, label = await listening(world, greeter)
    assert await hears(world, label) == b"hello"
    assert await hears(world, label.upper()) == b"hello"
    preview = await world.services.previews.open(label, "what is not asked for")
    with preview.socket as connection:
        assert not connection.getblocking()
    assert (preview.sandbox, preview.port) == (sandbox, 3000)


@pytest.mark.parametrize(
    "label",
    ["", "3000", "3000-", "0-{id}", "03000-{id}", "65536-{id}", "3000-{id}x", "3000-{other}", "x-{id}", "-{id}"],
)
async def test_names_of_nothing(world: Controlled, greeter: tuple[str, int], label: str) -> None:
    """All alike."""
    _, real = await listening(world, greeter)
    other = make_sandbox().id.removeprefix("sbx_").lower()
    with pytest.raises(SandboxNotFound, match=r"no such (preview|sandbox)"):
        await world.services.previews.open(label.format(id=real.partition("-")[2], other=other), None)


async def test_nobody_listens(world: Controlled, greeter: tuple[str, int]) -> None:
    """That is not the name's fault."""
    _, label = await listening(world, greeter)
    with pytest.raises(Unavailable):
        await world.services.previews.open(label.replace("3000", "3001"), None)


async def test_no_network_no_preview(world: Controlled) -> None:
    """Whoever guesses the name."""
    sandbox = await world.create()
    with pytest.raises(SandboxNotFound):
        await world.services.previews.open(f"80-{sandbox.id.removeprefix('sbx_').lower()}", None)


async def test_paused_one_wakes(world: Controlled, greeter: tuple[str, int]) -> None:
    """If it may; else it sleeps on."""
    sandbox, label = await listening(world, greeter, auto_resume=True)
    sleeper, its_label = await listening(world, greeter)
    for one in (sandbox, sleeper):
        await world.services.pause(TENANT, one.id)
    with pytest.raises(Unavailable):  # the simulated machine that is new has no ports
        await world.services.previews.open(label, None)
    assert await world.status(sandbox.id) is Status.RUNNING
    with pytest.raises(StateConflict, match="paused"):
        await world.services.previews.open(its_label, None)
    assert await world.status(sleeper.id) is Status.PAUSED


async def test_end_before_it_is_reached(
    world: Controlled, greeter: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The visitor hears that it has ended."""
    sandbox, label = await listening(world, greeter)
    dial = world.node.dial

    async def late(*args: object) -> object:
        await world.services.terminate(TENANT, sandbox.id)
        return await dial(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(world.node, "dial", late)
    with pytest.raises(StateConflict, match="ended"):
        await world.services.previews.open(label, None)


# ---- tokens ----


async def test_token(world: Controlled, greeter: tuple[str, int]) -> None:
    """Each sandbox has its own, and nothing else opens; a sleeper is not woken by who has none."""
    sandbox, label = await listening(world, greeter, preview_auth=True)
    other, _ = await listening(world, greeter, preview_auth=True)
    previews = world.services.previews
    token = previews.token(sandbox)
    assert token is not None
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert await hears(world, label, token) == b"hello"
    await world.services.pause(TENANT, sandbox.id)
    for wrong in (None, "", token[:-1], token + "x", "é", "\ud800", previews.token(other)):
        with pytest.raises(Unauthenticated):
            await previews.open(label, wrong)


async def test_none_is_asked_for(world: Controlled) -> None:
    """Then there is none."""
    assert world.services.previews.token(await world.create(network=Network.OPEN)) is None


async def test_token_over_rotations(world: Controlled) -> None:
    """It is good as long as the server's key is there that made it."""
    sandbox = await world.create(network=Network.OPEN, preview_auth=True)
    token = world.services.previews.token(sandbox)
    new, old = bytes([1]) * 32, bytes(32)
    assert KEYS.ids == KeyRing([old]).ids

    def previews(*keys: bytes) -> Previews:
        awake = Awake(world.store, world.services.resume, world.services.create._at_work, world.clock)
        return Previews(world.store, world.node, POLICY, KeyRing(keys), awake)

    assert previews(new, old).admits(sandbox, token)
    assert previews(new, old).token(sandbox) != token
    assert not previews(new).admits(sandbox, token)
