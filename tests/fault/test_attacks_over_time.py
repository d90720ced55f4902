"""Attacks on a gateway's resources and on its changes: floods, races, names that move, and processes that die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.sent import get
from support.sniffer import Arrived
from support.stage import ALLOWED, DENIED, PACKAGES, Stage, policy, staged
from support.world import moved

from terpd.model.network import GATEWAY_ADDRESS, GUEST_ADDRESS, Reason

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]

_RESTRICTED = policy("allowed.example")
_OPEN = policy(open=True)
_ALLOWED = f"print(https({ALLOWED!r}, 'allowed.example', patience_s=60))"
_SERVED = "allowed.example for allowed.example"
_DENIED = f"print(https({DENIED!r}, 'denied.example', patience_s=60))"
_TO_DENIED = Arrived("tcp", DENIED, 443)


@pytest.fixture(scope="module")
def own_network() -> Iterator[None]:
    with moved():
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(own_network: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(Path(tmp_path_factory.mktemp("attacks"))) as made:
        yield made


async def test_a_name_that_moves_is_looked_at_again(stage: Stage) -> None:
    """DNS rebinding: what is dialled is what was checked, each time."""
    attack = f"print(https({ALLOWED!r}, 'moving.trap.example', patience_s=60))"
    stage.world.names["moving.trap.example"] = [DENIED]
    await stage.set_policy(policy("trap.example"))
    assert await stage.attack(attack) == "denied.example for moving.trap.example"
    stage.world.names["moving.trap.example"] = ["127.0.0.1"]

    while "denied.example" in (said := await stage.attack(attack)):  # an answer is kept for some seconds
        pass

    assert "ACCESS_DENIED" in said
    assert (await stage.recorded(Reason.ADDRESS_FORBIDDEN)).address is None
    assert stage.arrived() == {_TO_DENIED}


async def test_a_second_request_stays_here(stage: Stage) -> None:
    """Pipelined behind an allowed one, for another host: the server gets the first, and is told it is the last."""
    await stage.set_policy(policy("http://packages.example"))
    sent = get("packages.example") + get("denied.example", "X: smuggled")

    said = await stage.attack(f"print(exchange({PACKAGES!r}, 80, {sent!r}, patience_s=60))")

    assert said.count("HTTP/1.1 200") == 1
    assert [(name, b"smuggled" in head, b"Connection: close" in head) for name, head in stage.heads] == [
        ("packages.example", False, True)
    ]


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("made[-1].send(b'GET / HTTP/1.1\\r\\nX: ')", id="slow-heads"),
        pytest.param("made[-1].send(b'\\x16\\x03\\x01\\x02\\x00\\x01')", id="slow-hellos"),
        pytest.param("pass", id="silent-connections"),
    ],
)
async def test_many_connections_take_only_their_own_share(attack: str, stage: Stage) -> None:
    """While one sandbox holds all connections that it may, and hundreds more, another is served as ever."""
    await stage.set_policy(_RESTRICTED)
    holding = (
        "made = []\n"
        "for port in range(1, 301):\n"
        " made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))\n"
        " made[-1].setblocking(False)\n"
        f" made[-1].connect_ex(({ALLOWED!r}, 443))\n"
        "time.sleep(1)\n"
        "for each in range(300):\n"
        " made.append(made.pop(0))\n"
        f" try: {attack}\n"
        " except OSError: pass\n"
        "if in_background(*made):\n"
        " time.sleep(25)\n"
        " os._exit(0)\n"
        "print('held')"
    )

    assert await stage.attack(holding) == "held"
    served = await stage.attack(_ALLOWED, by=stage.victim)
    after = await stage.attack(_ALLOWED)

    assert (served, after) == (_SERVED, _SERVED)
    assert stage.arrived() == {Arrived("tcp", ALLOWED, 443)}
    assert (await stage.recorded(Reason.ALLOWED_NAME)).name == "allowed.example"


async def test_half_open_connections_stop_nobody(stage: Stage) -> None:
    """A storm of SYN frames, none of which is ever confirmed."""
    await stage.set_policy(_RESTRICTED)
    storm = (
        "import random\n"
        "def frame(port):\n"
        " head = struct.pack('!HHIIBBHHH', port, 443, port, 0, 0x50, 2, 65535, 0, 0)\n"
        f" ends = socket.inet_aton({GUEST_ADDRESS!r}) + socket.inet_aton({ALLOWED!r})\n"
        " head = head[:16] + struct.pack('!H', sum16(ends + struct.pack('!BBH', 0, 6, 20) + head)) + head[18:]\n"
        " ip = struct.pack('!BBHHHBBH', 0x45, 0, 40, 1, 0, 64, 6, 0) + ends\n"
        " ip = ip[:10] + struct.pack('!H', sum16(ip)) + ip[12:]\n"
        " return bytes.fromhex('02fc00000001525400000002') + b'\\x08\\x00' + ip + head\n"
        "transmit(*(frame(1024 + each) for each in range(4000)))\n"
        "print('sent')"
    )

    assert await stage.attack(storm) == "sent"

    assert await stage.attack(_ALLOWED, by=stage.victim) == _SERVED
    assert await stage.attack(_ALLOWED) == _SERVED
    assert stage.arrived() == {Arrived("tcp", ALLOWED, 443)}


async def test_a_policy_that_is_taken_back_holds_at_once(stage: Stage) -> None:
    """However often it changes while the guest keeps dialling: after the last change nothing of it passes."""
    await stage.set_policy(_OPEN)
    dialling = (
        "if in_background():\n"
        " for each in range(400):\n"
        f"  https({DENIED!r}, 'denied.example')\n"
        "  if os.path.exists('stop'): break\n"
        " os._exit(0)\n"
        "print('begun')"
    )
    assert await stage.attack(dialling) == "begun"
    await _until_arrived(stage, _TO_DENIED)

    for _ in range(10):
        await stage.set_policy(_RESTRICTED)
        await stage.set_policy(_OPEN)
    await stage.set_policy(_RESTRICTED)
    await stage.recorded(Reason.NAME_NOT_ALLOWED)
    count = len(stage.records())
    while len(stage.records()) < count + 5:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await stage.attack("Path('stop').touch()\nprint()")

    assert stage.arrived() == set()


async def test_an_open_connection_ends_with_its_permission(stage: Stage) -> None:
    """It was made when it was allowed, and is cut when it is not any more."""
    await stage.set_policy(_OPEN)
    waiting = asyncio.create_task(stage.attack(f"print(exchange({DENIED!r}, 80, b'GET / HT', patience_s=60))"))
    await _until_arrived(stage, Arrived("tcp", DENIED, 80))

    await stage.set_policy(_RESTRICTED)

    assert "ConnectionResetError" in await waiting
    assert stage.heads == []


@pytest.mark.parametrize("helper", ["gateway", "netd"])
async def test_a_helper_that_is_killed_opens_nothing(helper: str, stage: Stage) -> None:
    """With the gateway away nothing passes; the next one has the same policy. The namespace needs no netd."""
    await stage.set_policy(_RESTRICTED)
    dialling = (
        "if in_background():\n"
        " while not os.path.exists('stop2'):\n"
        f"  https({DENIED!r}, 'denied.example')\n"
        " os._exit(0)\n"
        "print('begun')"
    )
    await stage.attack("Path('stop2').unlink(missing_ok=True)\nprint()")
    assert await stage.attack(dialling) == "begun"
    before = _helper(helper)

    os.kill(before, signal.SIGKILL)
    allowed = [await stage.attack(_ALLOWED) for _ in range(2)]

    assert allowed[1] == _SERVED
    assert "ACCESS_DENIED" in await stage.attack(_DENIED)
    await stage.attack("Path('stop2').touch()\nprint()")
    assert stage.arrived() <= {Arrived("tcp", ALLOWED, 443)}
    await stage.recorded(Reason.NAME_NOT_ALLOWED)
    if helper == "gateway":
        assert _helper(helper) != before


async def test_a_gateway_that_hangs_lets_nothing_pass(stage: Stage) -> None:
    """Stopped, not dead: what the guest dials waits, and is decided as ever when it goes on."""
    await stage.set_policy(_RESTRICTED)
    pid = _helper("gateway")

    os.kill(pid, signal.SIGSTOP)
    try:
        said = await stage.attack(f"print(https({DENIED!r}, 'denied.example', patience_s=2))")
        arrived = stage.arrived()
    finally:
        os.kill(pid, signal.SIGCONT)

    assert "timed out" in said
    assert arrived == set()
    assert "ACCESS_DENIED" in await stage.attack(_DENIED)
    assert stage.arrived() == set()


async def test_a_sandbox_does_not_find_another(stage: Stage) -> None:
    """They have the same address, each in a network of its own: a port of the other's cannot even be named."""
    await stage.set_policy(_OPEN)
    listening = (
        "s = socket.create_server(('0.0.0.0', 8000))\n"
        "if in_background(s):\n"
        " s.accept()\n Path('reached').touch()\n os._exit(0)\n"
        "print('listening')"
    )
    assert await stage.attack(listening, by=stage.victim) == "listening"
    addresses = [f"198.18.0.{last}" for last in (1, 3, 4, 5, 6, 10)]

    said = await stage.attack(
        f"print([exchange(each, 8000, b'GET / HTTP/1.1\\r\\n\\r\\n', patience_s=1) for each in {addresses}])\n"
        f"print(exchange({GATEWAY_ADDRESS!r}, 3128, b'CONNECT {GUEST_ADDRESS}:8000 HTTP/1.1\\r\\n\\r\\n'))"
    )

    assert "200" not in said
    assert "403 Forbidden" in said
    assert await stage.attack("print(Path('reached').exists())", by=stage.victim) == "False"
    assert stage.arrived() == set()


async def _until_arrived(stage: Stage, expected: Arrived) -> None:
    async with asyncio.timeout(60):
        while expected not in stage.arrived():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _helper(name: str) -> int:
    """The pid of this test's own helper process."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().split(b"\0")
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if f"terpd.egress.{name}".encode() in command and parent == os.getpid():
            found.append(int(directory.name))
    (pid,) = found
    return pid
