"""
Guests that reach the world by the gateway, over the whole path: TAP, namespace, gateway, name server, servers.

Everything runs in networks of its own (support/world.py): no packet of these tests leaves the host.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.lab import KEY, TIMEOUT_S, Lab
from support.world import World, moved, running_world

from terpd.egress.authority import certificate_for, make_authority
from terpd.egress.base import Authority
from terpd.model.errors import Unavailable
from terpd.model.ids import StateId, TenantId, new_state_id
from terpd.model.network import Credential, Decision, NetworkPolicy, NetworkSpec
from terpd.model.ports import StateRef
from terpd.node.jail.process import become_parent_of_orphans

pytestmark = pytest.mark.vm

TENANT = TenantId("default")
OPEN = NetworkSpec(TENANT, NetworkPolicy(open=True))
RESTRICTED = NetworkSpec(TENANT, NetworkPolicy(allow_domains=["allowed.example"]))
SECRET = Credential("api", ["allowed.example"], "authorization", "terp-secret-api", "the real one")


def new_state() -> StateRef:
    return StateRef(StateId(new_state_id()), KEY)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """Of the world's servers, and trusted by the gateway."""
    made = make_authority("World")
    path = tmp_path_factory.mktemp("world") / "ca.pem"
    path.write_bytes(made.certificate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        path.chmod(0o644)
        for parent in path.parents[:3]:  # the gateway is nobody in particular
            parent.chmod(0o755)
        yield made


@pytest.fixture
async def lab(tmp_path: Path, authority: Authority) -> AsyncIterator[Lab]:
    become_parent_of_orphans()
    with moved():
        async with running_world() as world:
            lab = Lab(tmp_path, world)
            await serve(world, authority, lab.sent)
            await lab.open()
            try:
                yield lab
            finally:
                await lab.close(stop_machines=True)
            assert list((tmp_path / "machines").iterdir()) == []


async def serve(world: World, authority: Authority, sent: list[str]) -> None:
    """Three names, each of one server that says which it is; *sent* gets the authorizations that they were sent."""
    for number, name in enumerate(("allowed.example", "denied.example", "open.example"), start=10):
        world.names[name] = [f"93.184.216.{number}"]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            sent.extend(line for line in head.lower().split("\r\n") if line.startswith("authorization:"))
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + name.encode())
            await writer.drain()

        await world.serve(world.names[name][0], 80, answer)
        context: ssl.SSLContext = certificate_for(authority, name)
        await world.serve(world.names[name][0], 443, answer, tls=context)


async def test_each_mode_reaches_what_it_may(lab: Lab) -> None:
    """HTTPS to allowed names, or all that is public; a policy that changes holds at once, and all is on record."""
    restricted, open_ = await lab.start(RESTRICTED), await lab.start(OPEN)

    assert await lab.fetch(restricted, "https://allowed.example/") == "allowed.example"
    assert "curl: " in await lab.fetch(restricted, "https://denied.example/")
    assert "curl: " in await lab.fetch(restricted, "http://allowed.example/")
    assert await lab.fetch(open_, "https://denied.example/") == "denied.example"
    assert await lab.fetch(open_, "http://open.example/") == "open.example"
    assert "curl: " in await lab.fetch(open_, "http://127.0.0.1:7070/")
    assert "curl: " in await lab.fetch(open_, "http://192.168.7.1/")

    await lab.node.set_network(restricted, OPEN)
    assert await lab.fetch(restricted, "http://denied.example/") == "denied.example"
    await lab.node.stop_machine(restricted)
    assert ("allowed.example", Decision.ALLOWED) in lab.decisions(restricted)
    assert ("denied.example", Decision.BLOCKED) in lab.decisions(restricted)


async def test_the_guests_end_is_set_up(lab: Lab) -> None:
    """Everything that a program needs is there, and the other sandboxes have no device at all."""
    networked, off = await lab.start(OPEN), await lab.start(None)

    _, said = await lab.run(networked, "ip -o -4 addr show eth0; ip route; ip neigh; cat /etc/resolv.conf")
    assert "inet 198.18.0.2/30" in said
    assert "default via 198.18.0.1 dev eth0" in said
    assert "198.18.0.1 dev eth0 lladdr 02:fc:00:00:00:01 PERMANENT" in said
    assert said.endswith("nameserver 198.18.0.1")
    assert await lab.run(networked, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6") == (0, "1")
    assert await lab.run(off, "ls /sys/class/net") == (0, "lo")


async def test_a_port_of_the_guest_is_dialled(lab: Lab) -> None:
    sandbox = await lab.start(OPEN)
    with pytest.raises(Unavailable, match="Nothing listens on port 8000"):
        await lab.node.dial(sandbox, 8000)
    server = (
        "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => '0.0.0.0', LocalPort => 8000, Listen => 1,"
        " ReuseAddr => 1); print \"ready\\n\"; my $c = $s->accept; print $c 'from the guest'"
    )
    await lab.run(sandbox, f"nohup perl -e '$| = 1; {server.replace(chr(39), chr(34))}' >/tmp/out 2>&1 &")
    await lab.run(sandbox, "until grep -q ready /tmp/out; do sleep 0.1; done")

    with await lab.node.dial(sandbox, 8000) as connection:
        async with asyncio.timeout(TIMEOUT_S):
            said = await asyncio.get_running_loop().sock_recv(connection, 100)

    assert said == b"from the guest"


async def test_a_snapshots_connections_go_on_and_its_child_has_a_network(lab: Lab) -> None:
    """The source notices nothing; the child's copy of the connection is none, but new ones are."""
    go_on = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst ")
        await writer.drain()
        await go_on.wait()
        writer.write(b"later")
        await writer.drain()

    lab.world.names["slow.example"] = ["93.184.216.50"]
    await lab.world.serve("93.184.216.50", 80, slowly)
    source, into = await lab.start(OPEN), new_state()
    fetching = asyncio.create_task(lab.run(source, "curl --silent --no-buffer http://slow.example/ | tee /tmp/slow"))
    await lab.run(source, "until grep -q first /tmp/slow; do sleep 0.1; done")

    await lab.node.snapshot_machine(source, key=KEY, into=into, withhold_secrets=False)
    child = await lab.start(OPEN, state=into, fork=True)
    go_on.set()

    assert await fetching == (0, "first later")
    assert await lab.fetch(child) == "open.example"
    assert await lab.fetch(source) == "open.example"


async def test_a_resumed_sandbox_has_its_network_again(lab: Lab) -> None:
    sandbox, into = await lab.start(OPEN), new_state()
    await lab.fetch(sandbox)

    await lab.node.pause_machine(sandbox, key=KEY, into=into)
    await lab.node.stop_machine(sandbox)
    await lab.start(RESTRICTED, sandbox_id=sandbox, state=into)

    assert await lab.fetch(sandbox, "https://allowed.example/") == "allowed.example"
    assert "curl: " in await lab.fetch(sandbox)


async def test_an_adopted_machine_reaches_nothing_until_it_is_told_again(lab: Lab) -> None:
    """Its namespace is found by the TAP which its monitor holds; helpers and listening sockets are new."""
    sandbox = await lab.start(OPEN)
    assert await lab.fetch(sandbox) == "open.example"
    await lab.close(stop_machines=False)
    await lab.open()
    assert set(await lab.node.list_machines()) == {sandbox}

    assert "curl: " in await lab.fetch(sandbox)
    await lab.node.set_network(sandbox, OPEN)

    assert await lab.fetch(sandbox) == "open.example"


_PYTHON = 'python3 -c "{}"'.format(
    "import urllib.request as u;"
    "r = u.Request('https://allowed.example/', headers={'Authorization': 'Bearer terp-secret-api'});"
    "print(u.urlopen(r).read().decode())"
)
_NODE = 'node -e "{}"'.format(
    "fetch('https://allowed.example/', {headers: {Authorization: 'Bearer terp-secret-api'}})"
    ".then(r => r.text()).then(t => console.log(t))"
)
_CURL = "curl --silent --show-error -H 'Authorization: Bearer terp-secret-api' https://allowed.example/"


@pytest.mark.parametrize(
    ("template", "command"), [("debian-12", _CURL), ("python-3.12-bare", _PYTHON), ("node-22", _NODE)]
)
async def test_programs_trust_the_gateway_where_it_puts_in_a_credential(lab: Lab, template: str, command: str) -> None:
    """They see the certificate of their sandbox's own authority, and never the credential."""
    sandbox = await lab.start(replace(RESTRICTED, credentials=[SECRET]), template=template)

    assert await lab.run(sandbox, command) == (0, "allowed.example")
    assert lab.sent == ["authorization: bearer the real one"]


async def test_a_fork_trusts_its_own_authority_alone(lab: Lab) -> None:
    """Certificates are replaced and do not pile up, also where a user made the bundle anew."""
    credentials = replace(RESTRICTED, credentials=[SECRET])
    source, into = await lab.start(credentials), new_state()
    await lab.run(source, "update-ca-certificates --fresh")
    _, before = await lab.run(source, "cat /usr/local/share/ca-certificates/terp-sandbox.crt")

    await lab.node.snapshot_machine(source, key=KEY, into=into, withhold_secrets=False)
    child = await lab.start(credentials, state=into, fork=True)
    without = await lab.start(RESTRICTED, state=into, fork=True)

    assert await lab.run(source, _CURL) == (0, "allowed.example")
    assert await lab.run(child, _CURL) == (0, "allowed.example")
    count = "grep -c 'certificates of this sandbox' -i /etc/ssl/certs/ca-certificates.crt"
    assert (await lab.run(child, count))[1] == "1"
    assert (await lab.run(without, count))[1] == "0"
    _, after = await lab.run(child, "cat /usr/local/share/ca-certificates/terp-sandbox.crt")
    assert before != after
    assert before.splitlines()[3] not in (await lab.run(child, "cat /etc/ssl/certs/ca-certificates.crt"))[1]
