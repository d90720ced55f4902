"""The port `Namespaces`, by the real helper: needs root, /dev/net/tun and libnftables."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.cable import Cable, handshake, in_namespace, reached, set_network
from support.until import until

from terpd.egress.base import Sockets
from terpd.egress.namespaces import NamespaceHelper
from terpd.egress.netd import links, syscalls, wire
from terpd.model.errors import Unavailable
from terpd.model.network import GATEWAY_ADDRESS
from terpd.node.network.pool import NamespacePool

_HELPER = [sys.executable, "-I", "-m", "terpd.egress.netd"]
_NULL = Path(os.devnull)


@pytest.fixture
async def namespaces() -> AsyncIterator[NamespaceHelper]:
    """Whatever a test does, no descriptor is left."""
    before = _descriptors("self")
    helper = NamespaceHelper()
    yield helper
    await helper.aclose()
    assert _descriptors("self") == before


@pytest.fixture
async def sockets(namespaces: NamespaceHelper) -> AsyncIterator[Sockets]:
    made = await namespaces.create()
    yield made
    await namespaces.close(made)


def _descriptors(of: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{of}/fd").iterdir())


def _open(sockets: Sockets) -> list[int]:
    return [sockets.tap, sockets.namespace, sockets.tcp, sockets.dns_udp, sockets.dns_tcp]


async def _works(sockets: Sockets) -> None:
    """A guest on the TAP dials a public address, and the socket accepts it."""
    cable = Cable(sockets.tap)
    cable.received()  # what came before
    handshake(cable, "192.0.2.80", 443)
    assert reached(sockets) == ["tcp ('192.0.2.80', 443)"]


# ---- create and close ----------------------------------------------------------------------------


async def test_a_new_namespace_works(sockets: Sockets) -> None:
    await _works(sockets)


async def test_descriptors_stay_here(sockets: Sockets) -> None:
    """No program that we start inherits any."""
    assert not any(os.get_inheritable(fd) for fd in _open(sockets))


async def test_the_helper_keeps_nothing(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    """However many it made, all it holds is what it started with."""
    assert namespaces.pid is not None
    await until(lambda: _descriptors(namespaces.pid or 0) == 4)  # its socket, two outputs, its own namespace

    for _ in range(20):
        await namespaces.close(await namespaces.create())
        os.close(await namespaces.connect(sockets.namespace, 80))

    await until(lambda: _descriptors(namespaces.pid or 0) == 4)


async def test_a_hundred_at_once(namespaces: NamespaceHelper) -> None:
    """All have the same addresses, and what one guest sends reaches its own sockets alone."""
    made = await asyncio.gather(*(namespaces.create() for _ in range(100)))
    try:
        handshake(Cable(made[50].tap), "192.0.2.80", 443)

        assert [reached(each) for each in made[:50]] == [[]] * 50
        assert reached(made[50]) == ["tcp ('192.0.2.80', 443)"]
        assert [reached(each) for each in made[51:]] == [[]] * 49
        assert len({os.fstat(each.namespace).st_ino for each in made}) == 100
    finally:
        for each in made:
            await namespaces.close(each)


# ---- the helper's end ----------------------------------------------------------------------------


async def test_a_killed_helper_is_replaced(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    """What it made lives on, and the next request finds another."""
    first = namespaces.pid
    os.kill(first or 0, signal.SIGKILL)

    os.close(await namespaces.connect(sockets.namespace, 80))

    assert namespaces.pid not in (None, first)
    await _works(sockets)


async def test_its_end_is_noticed_without_a_request(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    os.kill(namespaces.pid or 0, signal.SIGKILL)

    await until(lambda: namespaces.pid is None)


async def test_a_request_survives_the_helper(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    """It dies with a request before it; the request is carried out by the next."""
    pid = namespaces.pid or 0
    os.kill(pid, signal.SIGSTOP)
    creating = asyncio.create_task(namespaces.create())
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)

    made = await creating

    await _works(made)
    await namespaces.close(made)


async def test_what_was_given_up_is_closed(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    """The answer to a cancelled request is nobody's, and does not answer the next one."""
    os.kill(namespaces.pid or 0, signal.SIGSTOP)
    creating = asyncio.create_task(namespaces.create())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    os.kill(namespaces.pid or 0, signal.SIGCONT)

    connecting = await namespaces.connect(sockets.namespace, 80)

    with socket.socket(fileno=connecting) as sock:
        assert sock.getsockname()[0] == GATEWAY_ADDRESS


async def test_it_ends_with_its_parent() -> None:
    """Also when that was killed."""
    program = (
        "import asyncio, time\n"
        "from terpd.egress.namespaces import NamespaceHelper\n"
        "async def main():\n"
        "    helper = NamespaceHelper()\n"
        "    await helper.create()\n"
        "    print('pid', helper.pid, flush=True)\n"
        "    time.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = next(int(line.split()[1]) for line in parent.stdout if line.startswith(b"pid "))
        parent.kill()

    await until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- adopt ---------------------------------------------------------------------------------------


async def test_a_tap_is_enough_to_go_on(namespaces: NamespaceHelper) -> None:
    """A daemon that was killed left a TAP with QEMU; its successor gets the namespace and new sockets."""
    made = await namespaces.create()
    namespace = os.fstat(made.namespace)
    await namespaces.close(Sockets(os.dup(made.namespace), made.namespace, made.tcp, made.dns_udp, made.dns_tcp))

    adopted = await namespaces.adopt(made.tap)

    assert adopted.tap == made.tap
    assert os.path.samestat(os.fstat(adopted.namespace), namespace)
    await _works(adopted)
    await namespaces.close(adopted)


async def test_adopt_waits_for_the_former_gateway(namespaces: NamespaceHelper) -> None:
    """It holds the ports until it notices that its terpd is gone."""
    made = await namespaces.create()
    adopting = asyncio.create_task(namespaces.adopt(os.dup(made.tap)))
    await asyncio.wait([adopting], timeout=0.2)
    assert not adopting.done()

    await namespaces.close(made)

    adopted = await adopting
    await _works(adopted)
    await namespaces.close(adopted)


async def test_adopt_puts_everything_right(namespaces: NamespaceHelper) -> None:
    """Settings and rules, whoever changed them meanwhile, and an older release's too."""
    made = await namespaces.create()
    wanted = {
        f"ipv4/conf/{scope}/{name}": value for scope in ("all", "tap0") for name, _, value in links._INTERFACE_SETTINGS
    }
    wanted |= {"ipv4/ip_forward": 0, "ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/tap0/disable_ipv6": 1}

    def tamper() -> None:
        for name, value in wanted.items():
            set_network(name, 1 - min(value, 1))
        subprocess.run(["nft", "flush", "ruleset"], check=True)

    in_namespace(made.namespace, tamper)
    await namespaces.close(Sockets(os.dup(made.tap), made.namespace, made.tcp, made.dns_udp, made.dns_tcp))

    adopted = await namespaces.adopt(made.tap)

    def look() -> tuple[dict[str, int], str]:
        settings = {name: int(Path(f"/proc/sys/net/{name}").read_text()) for name in wanted}
        return settings, subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True).stdout.decode()

    settings, rules = in_namespace(adopted.namespace, look)
    assert settings == wanted
    assert rules.count("policy drop") == 5
    await _works(adopted)
    await namespaces.close(adopted)


async def test_what_is_no_tap_is_refused(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    """And stays the caller's."""
    with pytest.raises(Unavailable, match="no TAP"):
        await namespaces.adopt(sockets.tcp)

    await _works(sockets)


async def test_a_namespace_with_other_links_is_not_taken_over(namespaces: NamespaceHelper, sockets: Sockets) -> None:
    """A TAP of somebody else's, by a mistaken descriptor: nothing there may be changed."""

    def add_link() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, links._TUNSETIFF, links._IFREQ.pack(b"tap1", 0x5002))
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        return fd

    other = in_namespace(sockets.namespace, add_link)

    with pytest.raises(Unavailable, match="other links"):
        await namespaces.adopt(sockets.tap)

    listed = in_namespace(
        sockets.namespace, lambda: subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True).stdout
    )
    assert listed == b""
    os.close(other)


async def test_the_hosts_own_namespace_is_refused(namespaces: NamespaceHelper) -> None:
    own = syscalls.own_network()
    try:
        with pytest.raises(Unavailable, match="host's own"):
            await namespaces.connect(own, 80)
    finally:
        os.close(own)


# ---- requests that are none ----------------------------------------------------------------------


@contextmanager
def _bare_helper(*before: str) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ExitStack() as undo:
        undo.enter_context(ours)
        with theirs:
            process = subprocess.Popen([*before, *_HELPER], stdin=theirs.fileno())
        yield ours
        ours.close()
        assert process.wait() == 0


def _error(sock: socket.socket) -> dict[str, str]:
    message = wire.receive(sock)
    assert message is not None
    assert message.fds == []
    error = message.body["error"]
    assert isinstance(error, dict)
    return error


def test_nonsense_is_refused_and_survived() -> None:
    """Each message has one answer, and the helper works on."""
    with _bare_helper() as sock, _NULL.open("rb") as null:
        assert wire.receive(sock) == wire.Message({"id": wire.HELLO_ID}, [])
        fd = null.fileno()
        nonsense: list[tuple[bytes, list[int]]] = [
            (b"not JSON", []),
            (b"\xff\xfe", []),
            (b"[]", []),
            (b"[" * 60_000, []),
            (b'"create"', []),
            (b"{}", []),
            (b" " * (wire.MAX_MESSAGE_BYTES + 1), []),
            (b'{"id": 1, "op": "create"}', [fd] * (wire.MAX_DESCRIPTORS + 1)),
            (b'{"id": 1, "op": "create"}', [fd]),
            (b'{"id": 1, "op": "destroy"}', []),
            (b'{"id": 1, "op": ["create"]}', []),
            (b'{"id": 1, "op": "adopt"}', []),
            (b'{"id": 1, "op": "adopt"}', [fd]),
            (b'{"id": 1, "op": "adopt"}', [fd, fd]),
            (b'{"id": 1, "op": "connect", "port": 80}', []),
            (b'{"id": 1, "op": "connect", "port": 80}', [fd]),
            (b'{"id": 1, "op": "connect"}', [fd]),
            (b'{"id": 1, "op": "connect", "port": 0}', [fd]),
            (b'{"id": 1, "op": "connect", "port": 65536}', [fd]),
            (b'{"id": 1, "op": "connect", "port": true}', [fd]),
            (b'{"id": 1, "op": "connect", "port": "80"}', [fd]),
            (b'{"id": 1, "op": "connect", "port": 8.5}', [fd]),
        ]
        for content, fds in nonsense:
            socket.send_fds(sock, [content], fds)
            assert _error(sock)["kind"] == wire.INVALID, content[:60]

        wire.send(sock, {"id": 2, "op": "create"})
        made = wire.receive(sock)
        assert made is not None
        assert len(made.fds) == 5
        wire.close_all(made.fds)


def test_another_kind_of_namespace_is_refused() -> None:
    with _bare_helper() as sock, Path("/proc/self/ns/uts").open("rb") as uts:
        wire.receive(sock)

        wire.send(sock, {"id": 1, "op": "connect", "port": 80}, [uts.fileno()])

        assert _error(sock) == {"kind": wire.INVALID, "text": "the descriptor is no network namespace"}


def test_without_root_it_says_so() -> None:
    """A user namespace of its own takes root's capabilities over the host's away."""
    with _bare_helper("unshare", "--user") as sock:
        error = _error(sock)

    assert error["kind"] == wire.REFUSED
    assert "as root" in error["text"]


# ---- the pool ------------------------------------------------------------------------------------


async def test_the_pool_fills_and_refills(namespaces: NamespaceHelper) -> None:
    """Taking one does not wait for the helper, and another takes its place; at the end none is left."""
    pool = NamespacePool(namespaces, target=3)
    filling = asyncio.create_task(pool.run())
    await until(lambda: pool.ready == 3)

    taken = await pool.take()
    assert pool.ready == 2
    await until(lambda: pool.ready == 3)

    await _works(taken)
    await namespaces.close(taken)
    filling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await filling
    assert pool.ready == 0


async def test_an_empty_pool_makes_one(namespaces: NamespaceHelper) -> None:
    pool = NamespacePool(namespaces, target=0)

    taken = await pool.take()

    await _works(taken)
    await namespaces.close(taken)


async def test_the_tap_is_what_qemu_expects(sockets: Sockets) -> None:
    """QEMU is given the descriptor and asks it for its kind."""
    name, flags = links._IFREQ.unpack(fcntl.ioctl(sockets.tap, links._TUNGETIFF, bytes(links._IFREQ.size)))

    assert name.rstrip(b"\0") == b"tap0"
    assert flags & 0x5002 == 0x5002  # IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
