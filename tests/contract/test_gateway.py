"""
The gateway's own process, between a guest and a world of servers: what passes, what does not, and what is recorded.

The listening sockets are ordinary ones in a namespace where every address is local, so none of this needs netd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
from support.until import until
from support.world import NAME_SERVER, Cell, World, add_own_address, client_hello, moved, running_world

from terpd.egress.authority import certificate_for, make_authority
from terpd.egress.client import GatewayClient
from terpd.egress.upstream import Upstream
from terpd.model.ids import SandboxId, TenantId, new_sandbox_id
from terpd.model.network import Credential, Decision, EgressRecord, NetworkPolicy, NetworkSpec, Protocol, Reason

TENANT = TenantId("acme")
PUBLIC = "93.184.216.34"
OTHER = "93.184.216.35"
RESTRICTED = NetworkPolicy()
OPEN = NetworkPolicy(open=True)
REPORT = NetworkPolicy(report_only=True)
ALERT = bytes((0x15, 3, 3, 0, 2, 2, 49))
DEFAULT = ("allowed.example", "http://apt.example")


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with moved():
        yield


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        world.names |= {
            "allowed.example": [PUBLIC],
            "sub.allowed.example": [PUBLIC],
            "apt.example": [PUBLIC],
            "other.example": [OTHER],
        }
        yield world


class Gateway:
    """A running gateway with what it recorded, and cells that it serves."""

    def __init__(self, client: GatewayClient) -> None:
        self.client = client
        self.records: list[EgressRecord] = []
        self._cells: dict[SandboxId, Cell] = {}

    async def cell(self, policy: NetworkPolicy | None, port: int = 443, credentials: Sequence[Credential] = ()) -> Cell:
        cell = Cell(port)
        self._cells[sandbox_id := new_sandbox_id()] = cell
        network = None if policy is None else NetworkSpec(TENANT, policy, credentials)
        await self.client.admit(sandbox_id, cell.sockets, network, AUTHORITY)
        return cell

    def id_of(self, cell: Cell) -> SandboxId:
        return next(sandbox_id for sandbox_id, each in self._cells.items() if each is cell)

    async def update(self, cell: Cell, policy: NetworkPolicy) -> None:
        await self.client.update(self.id_of(cell), NetworkSpec(TENANT, policy))

    async def dismiss(self, cell: Cell) -> None:
        await self.client.dismiss(self.id_of(cell))

    async def follow(self) -> None:
        async for batch in self.client.records():
            self.records += batch

    async def record(self) -> EgressRecord:
        """The next record."""
        await until(lambda: self.records)
        return self.records.pop(0)

    def close(self) -> None:
        for cell in self._cells.values():
            cell.close()


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(world: World) -> AsyncIterator[StartGateway]:
    started: list[tuple[Gateway, asyncio.Task[None]]] = []

    async def start(**settings: object) -> Gateway:
        upstream = Upstream(**{"resolvers": [NAME_SERVER], "default_domains": DEFAULT, **settings})  # type: ignore[arg-type]
        client = GatewayClient(upstream)
        await client.open()
        gateway = Gateway(client)
        started.append((gateway, asyncio.create_task(gateway.follow())))
        return gateway

    yield start
    for gateway, following in started:
        await gateway.client.close()
        await following
        gateway.close()


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, and end when it ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def received(guest: socket.socket, count: int) -> bytes:
    """*count* bytes, or fewer if it ends before."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count and (piece := await loop.sock_recv(guest, count - len(data))):
        data += piece
    return data


async def received_until(guest: socket.socket, end: bytes, *, times: int = 1) -> bytes:
    data = b""
    while data.count(end) < times:
        piece = await asyncio.get_running_loop().sock_recv(guest, 65536)
        assert piece, data
        data += piece
    return data


async def rest(guest: socket.socket) -> bytes:
    """All that comes until its end, also if that is a reset."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.get_running_loop().sock_recv(guest, 65536):
            data += piece
    return data


async def say(guest: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(guest, data)


# ---- restricted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["allowed.example", "sub.allowed.example", "ALLOWED.example"])
async def test_tls_to_an_allowed_name_reaches_the_address_that_we_resolved(
    name: str, world: World, gateway: Gateway
) -> None:
    """Whatever address the guest dialled: the name decides."""
    await world.serve(PUBLIC, 443, echo)
    cell = await gateway.cell(RESTRICTED)
    hello = client_hello(name)

    with await cell.connect("1.2.3.4") as guest:
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello
        guest.shutdown(socket.SHUT_WR)
        assert await rest(guest) == b""

    record = await gateway.record()
    assert (record.decision, record.reason) == (Decision.ALLOWED, Reason.ALLOWED_NAME)
    assert (record.name, record.address, record.port) == (name.lower(), PUBLIC, 443)
    assert (record.bytes_out, record.bytes_in) == (len(hello), len(hello))
    assert (record.sandbox_id, record.tenant) == (gateway.id_of(cell), TENANT)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("other.example", Reason.NAME_NOT_ALLOWED),
        ("notallowed.example", Reason.NAME_NOT_ALLOWED),
        ("example", Reason.NAME_NOT_ALLOWED),
        (None, Reason.NO_NAME),
    ],
)
async def test_tls_to_other_names_is_refused_by_an_alert(
    name: str | None, reason: Reason, world: World, gateway: Gateway
) -> None:
    cell = await gateway.cell(RESTRICTED)

    with await cell.connect(PUBLIC) as guest:
        await say(guest, client_hello(name))
        assert await rest(guest) == ALERT

    record = await gateway.record()
    assert (record.protocol, record.decision, record.reason) == (Protocol.TLS, Decision.BLOCKED, reason)
    assert record.address is None
    assert world.asked == [], "a refused name was looked up"


async def test_an_allowed_name_on_another_port_is_refused(gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED, port=8443)
    with await cell.connect(PUBLIC) as guest:
        await say(guest, client_hello("allowed.example"))
        assert await rest(guest) == ALERT
    assert (await gateway.record()).reason is Reason.PORT_NOT_ALLOWED


async def test_a_hello_in_single_bytes_is_read(world: World, gateway: Gateway) -> None:
    await world.serve(PUBLIC, 443, echo)
    cell = await gateway.cell(RESTRICTED)
    hello = client_hello("allowed.example")
    with await cell.connect(PUBLIC) as guest:
        guest.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(hello)):
            await say(guest, hello[at : at + 1])
            await asyncio.sleep(0)
        assert await received(guest, len(hello)) == hello


@pytest.mark.parametrize("sent", [b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x00garbage", b"\x00\x01\x02"])
async def test_other_protocols_are_refused(sent: bytes, gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    with await cell.connect(PUBLIC) as guest:
        await say(guest, sent)
        assert await rest(guest) in {b"", ALERT}
    record = await gateway.record()
    assert record.decision is Decision.BLOCKED
    assert record.reason in {Reason.PROTOCOL_NOT_ALLOWED, Reason.MALFORMED}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.7.2",
        "100.64.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
    ],
)
@pytest.mark.parametrize("policy", [RESTRICTED, OPEN], ids=["restricted", "open"])
async def test_a_name_that_resolves_to_a_forbidden_address_is_blocked(
    address: str, policy: NetworkPolicy, world: World, gateway: Gateway
) -> None:
    """Rebinding: also when the name itself is allowed."""
    world.names["allowed.example"] = [address]
    cell = await gateway.cell(policy)
    dialled = await cell.resolve("allowed.example")
    assert dialled is not None
    with await cell.connect(dialled) as guest:
        await say(guest, client_hello("allowed.example"))
        assert await rest(guest) == ALERT
    record = await gateway.record()
    assert (record.decision, record.reason) == (Decision.BLOCKED, Reason.ADDRESS_FORBIDDEN)


async def test_the_public_one_of_several_addresses_is_dialled(world: World, gateway: Gateway) -> None:
    await world.serve(PUBLIC, 443, echo)
    world.names["allowed.example"] = ["127.0.0.1", PUBLIC, "fd00::1"]
    cell = await gateway.cell(RESTRICTED)
    hello = client_hello("allowed.example")
    with await cell.connect("1.2.3.4") as guest:
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello


@pytest.mark.parametrize("names", [(), ("allowed.example",)])
async def test_a_policy_with_its_own_list_has_no_other(names: Sequence[str], world: World, gateway: Gateway) -> None:
    """Also an empty one, and one that names what the default does."""
    await world.serve(PUBLIC, 80, echo)
    cell = await gateway.cell(NetworkPolicy(allow_domains=names), port=80)
    with await cell.connect(PUBLIC) as guest:
        await say(guest, b"GET / HTTP/1.1\r\nHost: apt.example\r\n\r\n")
        assert (await rest(guest)).startswith(b"HTTP/1.1 403 ")
    assert (await gateway.record()).reason is Reason.NAME_NOT_ALLOWED


# ---- plain HTTP ------------------------------------------------------------------------------------


async def _answer_each_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keep the connection whatever it is told, as a bad server may, and end when the client's side does."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head) + head)


async def test_plain_http_passes_to_package_hosts_once_a_connection(world: World, gateway: Gateway) -> None:
    """A second request, which could name another host, never reaches the server."""
    await world.serve(PUBLIC, 80, _answer_each_request)
    cell = await gateway.cell(RESTRICTED, port=80)
    first = b"GET /deb HTTP/1.1\r\nHost: apt.example\r\nConnection: keep-alive\r\n\r\n"

    with await cell.connect(PUBLIC) as guest:
        await say(guest, first + first.replace(b"apt", b"other"))
        answer = await received_until(guest, b"\r\n\r\n", times=2)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"GET /deb HTTP/1.1\r\nHost: apt.example\r\nConnection: close" in answer
        guest.shutdown(socket.SHUT_WR)
        await gateway.dismiss(cell)
        assert b"other" not in answer + await rest(guest)

    record = await gateway.record()
    assert (record.protocol, record.decision, record.name) == (Protocol.HTTP, Decision.ALLOWED, "apt.example")


async def test_a_guest_that_has_its_answer_and_goes_ends_the_connection(world: World, gateway: Gateway) -> None:
    """Also when the server keeps it open, although it was told not to."""
    await world.serve(PUBLIC, 80, _answer_each_request)
    cell = await gateway.cell(RESTRICTED, port=80)
    with await cell.connect(PUBLIC) as guest:
        await say(guest, b"POST / HTTP/1.1\r\nHost: apt.example\r\nContent-Length: 2\r\n\r\nok")
        await received_until(guest, b"\r\n\r\n", times=2)
    record = await gateway.record()
    assert record.decision is Decision.ALLOWED
    assert record.bytes_out > 0 < record.bytes_in


async def test_a_request_by_url_is_sent_on_as_a_path(world: World, gateway: Gateway) -> None:
    await world.serve(PUBLIC, 80, _answer_each_request)
    cell = await gateway.cell(RESTRICTED, port=3128)
    with await cell.connect("198.18.0.1") as guest:
        await say(guest, b"GET http://apt.example/pool?x HTTP/1.1\r\nHost: apt.example\r\n\r\n")
        assert b"GET /pool?x HTTP/1.1\r\nHost: apt.example\r\n" in await received_until(guest, b"\r\n\r\n", times=2)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", Reason.PORT_NOT_ALLOWED),
        (b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", Reason.NAME_NOT_ALLOWED),
        (b"GET / HTTP/1.1\r\nHost: apt.example\r\nHost: other.example\r\n\r\n", Reason.NAME_MISMATCH),
        (b"GET http://other.example/ HTTP/1.1\r\nHost: apt.example\r\n\r\n", Reason.NAME_MISMATCH),
        (b"GET / HTTP/1.0\r\n\r\n", Reason.NO_NAME),
        (b"GET / HTTP/1.1\r\nHost: 93.184.216.34\r\n\r\n", Reason.NO_NAME),
        (b"GET / HTTP/1.1\r\nHost: 0x5db8d822\r\n\r\n", Reason.NAME_INVALID),
        (
            b"POST / HTTP/1.1\r\nHost: apt.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reason.MALFORMED,
        ),
        (b"GET / HTTP/1.1\r\nHost: apt.example\r\n folded: x\r\n\r\n", Reason.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: apt.example\nX: y\r\n\r\n", Reason.MALFORMED),
    ],
)
async def test_other_plain_requests_are_answered_403(
    request_: bytes, reason: Reason, world: World, gateway: Gateway
) -> None:
    await world.serve(PUBLIC, 80, _answer_each_request)
    cell = await gateway.cell(RESTRICTED, port=80)
    with await cell.connect(PUBLIC) as guest:
        await say(guest, request_)
        answer = await rest(guest)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert reason.value.encode() in answer
    record = await gateway.record()
    assert (record.decision, record.reason) == (Decision.BLOCKED, reason)


# ---- CONNECT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [RESTRICTED, OPEN], ids=["restricted", "open"])
async def test_a_tunnel_to_an_allowed_name_carries_tls_with_it(
    policy: NetworkPolicy, world: World, gateway: Gateway
) -> None:
    await world.serve(PUBLIC, 443, echo)
    cell = await gateway.cell(policy, port=3128)
    hello = client_hello("allowed.example")
    with await cell.connect("198.18.0.1") as guest:
        await say(guest, b"CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example:443\r\n\r\n")
        assert (await received(guest, 39)).startswith(b"HTTP/1.1 200 ")
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello
    record = await gateway.record()
    assert (record.protocol, record.name, record.port) == (Protocol.CONNECT, "allowed.example", 443)
    assert record.decision is Decision.ALLOWED


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"other.example:443", Reason.NAME_NOT_ALLOWED),
        (b"allowed.example:22", Reason.PORT_NOT_ALLOWED),
        (b"127.0.0.1:443", Reason.NO_NAME),
        (b"[::1]:443", Reason.NO_NAME),
        (b"allowed.example", Reason.MALFORMED),
    ],
)
async def test_other_tunnels_are_refused(target: bytes, reason: Reason, gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED, port=3128)
    with await cell.connect("198.18.0.1") as guest:
        await say(guest, b"CONNECT " + target + b" HTTP/1.1\r\n\r\n")
        assert (await rest(guest)).startswith(b"HTTP/1.1 403 ")
    assert (await gateway.record()).reason is reason


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (client_hello("other.example"), Reason.NAME_MISMATCH),
        (client_hello(None), Reason.NO_NAME),
        (b"SSH-2.0-x\r\n", Reason.PROTOCOL_NOT_ALLOWED),
        (b"GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", Reason.PROTOCOL_NOT_ALLOWED),
    ],
)
async def test_a_tunnel_carries_nothing_else(inner: bytes, reason: Reason, world: World, gateway: Gateway) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1))

    await world.serve(PUBLIC, 443, listen)
    cell = await gateway.cell(RESTRICTED, port=3128)
    with await cell.connect("198.18.0.1") as guest:
        await say(guest, b"CONNECT allowed.example:443 HTTP/1.1\r\n\r\n" + inner)
        await rest(guest)
    record = await gateway.record()
    assert (record.decision, record.reason) == (Decision.BLOCKED, reason)
    await until(lambda: heard)
    assert heard == [b""]


# ---- open ------------------------------------------------------------------------------------------


async def test_open_mode_carries_protocols_in_which_the_server_speaks_first(world: World, gateway: Gateway) -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await echo(reader, writer)

    await world.serve(OTHER, 25, banner)
    cell = await gateway.cell(OPEN, port=25)
    dialled = await cell.resolve("other.example")
    assert dialled is not None

    with await cell.connect(dialled) as guest:
        assert await received(guest, 11) == b"220 hello\r\n"
        await say(guest, b"QUIT\r\n")
        assert await received(guest, 6) == b"QUIT\r\n"

    record = await gateway.record()
    assert (record.protocol, record.name, record.address) == (Protocol.TCP, "other.example", OTHER)
    assert (record.decision, record.reason) == (Decision.ALLOWED, Reason.OPEN_MODE)
    assert (record.bytes_out, record.bytes_in) == (6, 17)


@pytest.mark.parametrize(
    "first", [b"\x00binary", b"NICK x\r\n", client_hello("any.example"), b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_open_mode_reaches_public_addresses_as_they_are(first: bytes, world: World, gateway: Gateway) -> None:
    """Whatever is spoken, and whatever it names."""
    await world.serve(OTHER, 7000, echo)
    cell = await gateway.cell(OPEN, port=7000)
    with await cell.connect(OTHER) as guest:
        await say(guest, first)
        assert await received(guest, len(first)) == first
    assert (await gateway.record()).address == OTHER


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "192.168.7.2", "198.18.0.5", "203.0.113.7"])
async def test_open_mode_does_not_reach_forbidden_addresses(address: str, gateway: Gateway) -> None:
    cell = await gateway.cell(OPEN, port=7000)
    with await cell.connect(address) as guest:
        await say(guest, b"\x00")
        assert await rest(guest) == b""
    record = await gateway.record()
    assert (record.decision, record.reason) == (Decision.BLOCKED, Reason.ADDRESS_FORBIDDEN)


async def test_an_own_public_address_is_not_reached(world: World, gateway: Gateway) -> None:
    """The host's services, which its firewall may take for internal."""
    own = "93.184.216.99"
    add_own_address(own)
    with socket.create_server((own, 443)):
        cell = await gateway.cell(OPEN)
        with await cell.connect(own) as guest:
            await say(guest, client_hello("any.example"))
            assert await rest(guest) == ALERT
    assert (await gateway.record()).reason is Reason.ADDRESS_FORBIDDEN


async def test_an_own_address_that_the_operator_names_is_reached(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(allow_addresses=["127.0.0.1/32"])
    cell = await gateway.cell(OPEN)
    loop = asyncio.get_running_loop()
    hello = client_hello("any.example")
    with socket.create_server(("127.0.0.1", 443)) as listener, await cell.connect("127.0.0.1") as guest:
        listener.setblocking(False)
        await say(guest, hello)
        server, _ = await loop.sock_accept(listener)
        with server:
            assert await received(server, len(hello)) == hello


async def test_a_wider_exception_does_not_open_the_host_itself(world: World, start_gateway: StartGateway) -> None:
    gateway = await start_gateway(allow_addresses=["192.168.0.0/16"])
    await world.serve("192.168.8.1", 443, echo)
    cell = await gateway.cell(OPEN)
    hello = client_hello("any.example")
    with await cell.connect("192.168.8.1") as guest:
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello
    with await cell.connect("192.168.7.2") as guest:
        await say(guest, hello)
        assert await rest(guest) == ALERT


async def test_what_cannot_be_reached_is_recorded_as_failed(world: World, gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    for name, reason in (("allowed.example", Reason.UNREACHABLE), ("none.allowed.example", Reason.NAME_UNRESOLVED)):
        with await cell.connect(PUBLIC) as guest:
            await say(guest, client_hello(name))
            assert (await rest(guest))[-1:] == b"\x50"  # internal_error
        record = await gateway.record()
        assert (record.decision, record.reason) == (Decision.FAILED, reason)


# ---- report only -----------------------------------------------------------------------------------


async def test_report_only_lets_pass_and_says_what_it_would_block(world: World, gateway: Gateway) -> None:
    await world.serve(OTHER, 443, echo)
    cell = await gateway.cell(REPORT)
    hello = client_hello("other.example")
    for dialled in (await cell.resolve("other.example"), OTHER):
        assert dialled is not None
        with await cell.connect(dialled) as guest:
            await say(guest, hello)
            assert await received(guest, len(hello)) == hello
        record = await gateway.record()
        assert (record.decision, record.reason) == (Decision.REPORTED, Reason.NAME_NOT_ALLOWED)


async def test_report_only_blocks_forbidden_addresses(gateway: Gateway) -> None:
    cell = await gateway.cell(REPORT)
    with await cell.connect("169.254.169.254") as guest:
        await say(guest, client_hello("other.example"))
        assert await rest(guest) == ALERT
    assert (await gateway.record()).reason is Reason.ADDRESS_FORBIDDEN


# ---- DNS -------------------------------------------------------------------------------------------


async def test_only_allowed_names_exist_and_none_is_asked_for(world: World, gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    assert (await cell.resolve("allowed.example") or "").startswith("198.18.")
    assert await cell.resolve("allowed.example") == await cell.resolve("ALLOWED.example")
    assert await cell.resolve("secret-data.tunnel.example") is None
    record = await gateway.record()
    assert (record.protocol, record.name, record.reason) == (
        Protocol.DNS,
        "secret-data.tunnel.example",
        Reason.NAME_NOT_ALLOWED,
    )
    assert world.asked == []


async def test_answers_come_from_the_server_that_was_asked(gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    query = dns.message.make_query("allowed.example", "AAAA")
    reply, source = await cell.ask(query.to_wire(), "1.1.1.1")
    assert source == "1.1.1.1"
    answer = dns.message.from_wire(reply)
    assert (answer.rcode(), answer.answer, answer.id) == (dns.rcode.NOERROR, [], query.id)


async def test_names_are_answered_over_tcp(gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    query = dns.message.make_query("allowed.example", "A").to_wire()
    framed = len(query).to_bytes(2) + query
    with await cell.connect("8.8.8.8", 53) as guest:
        for _ in range(2):
            await say(guest, framed)
            length = int.from_bytes(await received(guest, 2))
            assert len(dns.message.from_wire(await received(guest, length)).answer) == 1


async def test_blocked_questions_are_recorded_once_and_in_moderation(gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    for number in range(200):
        await cell.resolve(f"x{number}.example")
        await cell.resolve("same.example")
    await gateway.dismiss(cell)
    names = [record.name for record in gateway.records]
    assert names.count("same.example") == 1
    assert len(names) == len(set(names)) == 64


async def test_a_name_has_the_same_address_after_a_restart(gateway: Gateway) -> None:
    cell = await gateway.cell(RESTRICTED)
    before = await cell.resolve("sub.allowed.example")
    await _kill(gateway)
    assert await cell.resolve("sub.allowed.example") == before


# ---- changes, limits, failures ---------------------------------------------------------------------


async def _kill(gateway: Gateway) -> None:
    pid = gateway.client.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: gateway.client.pid not in {None, pid})
    await gateway.client.dismiss(new_sandbox_id())


async def test_a_changed_policy_ends_what_it_does_not_allow(world: World, gateway: Gateway) -> None:
    await world.serve(PUBLIC, 443, echo)
    await world.serve(OTHER, 443, echo)
    cell = await gateway.cell(OPEN)
    hellos = [client_hello("allowed.example"), client_hello("other.example")]
    kept, ended = [await cell.connect(await cell.resolve(name) or "") for name in ("allowed.example", "other.example")]
    for guest, hello in zip((kept, ended), hellos, strict=True):
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello

    await gateway.update(cell, RESTRICTED)

    with ended, pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(ended, 1)
    with kept:
        await say(kept, b"on")
        assert await received(kept, 2) == b"on"
    assert (await gateway.record()).name == "other.example"


async def test_a_sandbox_without_a_network_reaches_nothing(gateway: Gateway) -> None:
    cell = await gateway.cell(None)
    with await cell.connect(PUBLIC) as guest:
        with contextlib.suppress(ConnectionError):
            await say(guest, client_hello("allowed.example"))
        assert await rest(guest) == b""


async def test_a_dismissed_sandbox_is_served_no_more_and_its_records_are_there(world: World, gateway: Gateway) -> None:
    await world.serve(PUBLIC, 443, echo)
    cell = await gateway.cell(RESTRICTED)
    hello = client_hello("allowed.example")
    with await cell.connect(PUBLIC) as guest:
        await say(guest, hello)
        await received(guest, len(hello))

        await gateway.dismiss(cell)

        await until(lambda: gateway.records)
        assert [record.bytes_in for record in gateway.records] == [len(hello)]
        assert await rest(guest) == b""


async def test_a_killed_gateway_is_followed_by_one_that_serves_the_same(world: World, gateway: Gateway) -> None:
    """What was dialled in between waits; what was under way is broken, not whole."""
    await world.serve(PUBLIC, 443, echo)
    cell = await gateway.cell(RESTRICTED)
    hello = client_hello("allowed.example")
    under_way = await cell.connect(PUBLIC)
    await say(under_way, hello)
    await received(under_way, len(hello))

    await _kill(gateway)

    with under_way, await cell.connect(PUBLIC) as guest:
        await rest(under_way)
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello


async def test_connections_beyond_a_sandboxs_share_wait_and_others_are_served(
    world: World, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(max_connections=4)
    await world.serve(PUBLIC, 443, echo)
    greedy, other = await gateway.cell(RESTRICTED), await gateway.cell(RESTRICTED)
    hello = client_hello("allowed.example")
    held = [await greedy.connect(PUBLIC) for _ in range(5)]
    for guest in held[:4]:
        await say(guest, hello)
        await received(guest, len(hello))
    await say(held[4], hello)

    with await other.connect(PUBLIC) as guest:
        await say(guest, hello)
        assert await received(guest, len(hello)) == hello
    with pytest.raises(BlockingIOError):
        held[4].recv(1)
    held[0].close()
    assert await received(held[4], len(hello)) == hello
    for guest in held[1:]:
        guest.close()


async def test_much_is_carried_both_ways_at_once(world: World, gateway: Gateway) -> None:
    """Over the point where copying becomes splicing, with a reader that is slow at first."""
    await world.serve(PUBLIC, 443, echo)
    cell = await gateway.cell(RESTRICTED)
    sent = client_hello("allowed.example") + os.urandom(8 * 1024 * 1024)
    with await cell.connect(PUBLIC) as guest:

        async def send() -> None:
            await say(guest, sent)
            guest.shutdown(socket.SHUT_WR)

        _, back = await asyncio.gather(send(), rest(guest))
    assert back == sent
    record = await gateway.record()
    assert (record.bytes_out, record.bytes_in) == (len(sent), len(sent))


async def test_a_server_that_breaks_off_resets_the_guest(world: World, gateway: Gateway) -> None:
    """A torn answer must not look like a whole one."""
    listener = world.listen(PUBLIC, 443)
    cell = await gateway.cell(RESTRICTED)
    loop = asyncio.get_running_loop()
    with listener, await cell.connect(PUBLIC) as guest:
        await say(guest, client_hello("allowed.example"))
        server, _ = await loop.sock_accept(listener)
        await loop.sock_recv(server, 65536)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        server.close()
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(guest, 1)


# ---- a proxy of the operator's ---------------------------------------------------------------------


async def test_connections_go_through_the_operators_proxy(
    world: World, start_gateway: StartGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if asked[-1].startswith(b"CONNECT sub."):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbanner")
        await echo(reader, writer)

    await world.serve("192.168.9.9", 8080, proxy)
    gateway = await start_gateway(proxy="http://user:s%40cret@192.168.9.9:8080", resolvers=())
    cell = await gateway.cell(RESTRICTED)
    hello = client_hello("allowed.example")

    with await cell.connect(PUBLIC) as guest:
        await say(guest, hello)
        assert await received(guest, 6 + len(hello)) == b"banner" + hello
    with await cell.connect(PUBLIC) as guest:
        await say(guest, client_hello("sub.allowed.example"))
        await rest(guest)

    records = [await gateway.record(), await gateway.record()]
    assert [record.decision for record in records] == [Decision.ALLOWED, Decision.FAILED]
    assert asked[0].startswith(b"CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example:443\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpzQGNyZXQ=\r\n" in asked[0]  # user:s@cret
    assert "s@cret" not in repr(records)
    assert "cret" not in capfd.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254"])
async def test_forbidden_literals_are_not_given_to_the_proxy(
    address: str, world: World, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(proxy="http://192.168.9.9:8080", resolvers=())
    cell = await gateway.cell(OPEN)
    with await cell.connect(address) as guest:
        await say(guest, client_hello("any.example"))
        assert await rest(guest) == ALERT
    assert (await gateway.record()).reason is Reason.ADDRESS_FORBIDDEN


# ---- credentials -----------------------------------------------------------------------------------

AUTHORITY = make_authority("a sandbox")
KEY = Credential("api", ("api.example",), "authorization", "placeholder", "real-value")


@pytest.fixture
async def api(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A server with a certificate that the gateway trusts; returns the heads of the requests that it gets."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    public = make_authority("the world")
    (tmp_path / "ca.pem").write_bytes(public.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    world.names["api.example"] = [PUBLIC]
    await world.serve(PUBLIC, 443, serve, tls=certificate_for(public, "api.example"))
    return heads


async def _request(cell: Cell, address: str) -> bytes:
    """What a guest that trusts its own authority gets for a request with the placeholder."""
    trust = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
    guest = await cell.connect(address)
    reader, writer = await asyncio.open_connection(sock=guest, ssl=trust, server_hostname="api.example")
    writer.write(b"GET / HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer placeholder\r\n\r\n")
    answer = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)
    writer.transport.abort()
    await asyncio.sleep(0)
    return answer


@pytest.mark.parametrize("policy", [NetworkPolicy(allow_domains=("api.example",)), OPEN], ids=["restricted", "open"])
async def test_a_credential_is_put_in_on_the_way_to_its_host(
    policy: NetworkPolicy, api: list[bytes], start_gateway: StartGateway
) -> None:
    gateway = await start_gateway()
    cell = await gateway.cell(policy, credentials=[KEY])

    assert (await _request(cell, OTHER)).endswith(b"ok")

    assert b"Authorization: Bearer real-value\r\n" in api[0]
    record = await gateway.record()
    assert (record.name, record.address, record.credential) == ("api.example", PUBLIC, "api")
    assert record.decision is Decision.ALLOWED
    assert record.bytes_out > 0 < record.bytes_in


async def test_a_credential_that_was_lost_blocks_its_host(api: list[bytes], start_gateway: StartGateway) -> None:
    """Rather than send the placeholder there."""
    gateway = await start_gateway()
    cell = await gateway.cell(OPEN, credentials=[replace(KEY, value="")])
    with pytest.raises((ssl.SSLError, asyncio.IncompleteReadError)):
        await _request(cell, PUBLIC)
    assert (await gateway.record()).reason is Reason.CREDENTIAL_LOST
    assert api == []


async def test_a_credential_is_not_put_in_for_a_host_with_another_certificate(
    api: list[bytes], world: World, start_gateway: StartGateway
) -> None:
    await world.serve(OTHER, 443, echo, tls=certificate_for(make_authority("nobody's"), "api.example"))
    world.names["api.example"] = [OTHER]
    gateway = await start_gateway()
    cell = await gateway.cell(OPEN, credentials=[KEY])
    assert (await _request(cell, PUBLIC)).startswith(b"HTTP/1.1 502 ")
    record = await gateway.record()
    assert (record.decision, record.reason) == (Decision.FAILED, Reason.SERVER_UNVERIFIED)
    assert api == []


# ---- the process -----------------------------------------------------------------------------------


async def test_the_process_has_no_privilege_and_ends_with_its_owner(gateway: Gateway) -> None:
    pid = gateway.client.pid
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Groups"].strip() == ""
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    await gateway.client.close()
    assert not process.exists()  # noqa: ASYNC240  /proc does not block
