"""
What code with root in a guest may try to get around the gateway, and what the world sees of it: nothing.

Each case runs in a real guest. Witnesses sniff in the world's network and in the host's, so that a packet that got out
would be seen wherever it went, answered or not. SECURITY.md has the same list in words.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import pytest
import pytest_asyncio
from support.frames import (
    ACK,
    ARP_TYPE,
    BROADCAST_MAC,
    ICMP,
    ICMPV6,
    IPV6_TYPE,
    QINQ_TYPE,
    SYN,
    TCP,
    UDP,
    arp,
    ethernet,
    icmp,
    icmpv6,
    ip,
    ipv6,
    tagged,
    tcp,
    udp,
)
from support.sent import ENCRYPTED_HELLO, SERVER_NAME, connect, get, hello, request, server_name, with_extension
from support.sniffer import Arrived
from support.stage import ALLOWED, API_PORT, DENIED, FRONT, HOST, PACKAGES, Stage, policy, staged
from support.world import client_hello, moved

from terpd.model.network import GATEWAY_ADDRESS, GUEST_ADDRESS, Decision, NetworkSpec, Reason

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]

_RESTRICTED = policy("allowed.example")
_PACKAGES = policy("allowed.example", "http://packages.example")
_OPEN = policy(open=True)
_REPORT = policy("allowed.example", report_only=True)
_TO_ALLOWED = frozenset({Arrived("tcp", ALLOWED, 443)})
_PROXY_PORT = 3128
_ADDRESS_FORBIDDEN, _NAME_NOT_ALLOWED, _NAME_INVALID = (
    Reason.ADDRESS_FORBIDDEN,
    Reason.NAME_NOT_ALLOWED,
    Reason.NAME_INVALID,
)
_NO_NAME, _NAME_MISMATCH, _MALFORMED = Reason.NO_NAME, Reason.NAME_MISMATCH, Reason.MALFORMED
_PORT_NOT_ALLOWED, _PROTOCOL_NOT_ALLOWED = Reason.PORT_NOT_ALLOWED, Reason.PROTOCOL_NOT_ALLOWED
_ALERT = r"\x15\x03\x03\x00\x02\x021"  # fatal: access denied


@pytest.fixture(scope="module")
def own_network() -> Iterator[None]:
    with moved():
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(own_network: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(Path(tmp_path_factory.mktemp("attacks"))) as made:
        yield made


@dataclass(frozen=True)
class Attack:
    """
    Attributes:
        source: Python, run as root in the guest.
        expected: Words that the attack prints, in this order.
        reason: Why it was blocked, on record; None where the packet filter drops it, which is not recorded.
        arrives: All that comes through, which is what the policy allows.
        names: More names, and their addresses.
    """

    id: str
    policy: NetworkSpec
    source: str
    expected: tuple[str, ...] = ()
    reason: Reason | None = None
    decision: Decision = Decision.BLOCKED
    arrives: frozenset[Arrived] = frozenset()
    names: dict[str, list[str]] = field(default_factory=dict)


def _exchange(address: str, port: int, sent: bytes) -> str:
    return f"print(exchange({address!r}, {port}, {sent!r}))"


def _literal(id: str, address: str, port: int = 80) -> Attack:  # noqa: A002
    """Dialled in open mode, where the policy allows every address."""
    return Attack(id, _OPEN, _exchange(address, port, get(address)), reason=_ADDRESS_FORBIDDEN)


def _tunnel(id: str, target: str, reason: Reason, spec: NetworkSpec = _OPEN) -> Attack:  # noqa: A002
    """CONNECT, which is spoken to the gateway itself."""
    return Attack(id, spec, _exchange(GATEWAY_ADDRESS, _PROXY_PORT, connect(target)), ("403 Forbidden",), reason)


def _inner(id: str, sent: bytes, reason: Reason) -> Attack:  # noqa: A002
    """Something else within a tunnel that may be made. The server is dialled before anything is said in the tunnel."""
    source = _exchange(GATEWAY_ADDRESS, _PROXY_PORT, connect("allowed.example:443", sent))
    return Attack(id, _RESTRICTED, source, ("200 Connection established",), reason, arrives=_TO_ALLOWED)


def _name(id: str, *addresses: str) -> Attack:  # noqa: A002
    """An allowed name whose owner lets it lead to forbidden addresses."""
    name = f"{id}.trap.example"
    source = f"print(https({DENIED!r}, {name!r}))"
    return Attack(
        id, policy("trap.example"), source, ("ACCESS_DENIED",), _ADDRESS_FORBIDDEN, names={name: [*addresses]}
    )


def _frames(id: str, *frames: bytes) -> Attack:  # noqa: A002
    """In open mode: there is no policy to stop them, only the packet filter, which records nothing."""
    return Attack(id, _OPEN, f"transmit(*{frames!r})\nprint('sent')", ("sent",))


def _hello(id: str, sent: bytes, reason: Reason) -> Attack:  # noqa: A002
    """To the address of a name that is not allowed."""
    return Attack(id, _RESTRICTED, _exchange(DENIED, 443, sent), (_ALERT,), reason)


def _http(id: str, sent: bytes, reason: Reason) -> Attack:  # noqa: A002
    """To a host that may be spoken to in plain HTTP."""
    return Attack(id, _PACKAGES, _exchange(PACKAGES, 80, sent), ("403 Forbidden", reason.value), reason)


def _first(id: str, port: int, sent: bytes, reason: Reason) -> Attack:  # noqa: A002
    """To the allowed host's address."""
    return Attack(id, _RESTRICTED, _exchange(ALLOWED, port, sent), (), reason)


def _datagram(id: str, address: str, port: int, expected: str = "No route to host") -> Attack:  # noqa: A002
    return Attack(id, _OPEN, f"print(datagram({address!r}, {port}))", (expected,))


def _packet(
    content: bytes, protocol: int, *, to: str = ALLOWED, source: str = "198.18.0.2", fragment: int = 0
) -> bytes:
    return ethernet(ip(content, to, protocol=protocol, source=source, fragment=fragment))


def _syn(to: str = ALLOWED, port: int = 443, *, source: str = GUEST_ADDRESS) -> bytes:
    return ip(tcp(to, port, source=source), to, protocol=TCP, source=source)


_ADDRESSES = [
    _tunnel("host-loopback", "127.0.0.1:7070", _ADDRESS_FORBIDDEN),
    _tunnel("host-any-address", "0.0.0.0:7070", _ADDRESS_FORBIDDEN),
    Attack("host-by-the-gateways-address", _OPEN, _exchange(GATEWAY_ADDRESS, API_PORT, get("")), reason=_NO_NAME),
    _literal("host-own-address", HOST, API_PORT),
    _literal("metadata-aws", "169.254.169.254"),
    _literal("metadata-azure", "168.63.129.16"),
    _literal("metadata-alibaba", "100.100.100.200"),
    _tunnel("metadata-by-proxy", "169.254.169.254:80", _ADDRESS_FORBIDDEN),
    _literal("link-local", "169.254.1.1"),
    _literal("private-10", "10.0.0.1"),
    _literal("private-172", "172.17.0.1", 2375),
    _literal("private-192", "192.168.1.1"),
    _literal("carrier-grade-nat", "100.64.0.1"),
    _literal("sandbox-link-of-another", "198.18.0.6", 8000),
    _literal("benchmark-range", "198.19.0.1"),
    _literal("documentation-range", "203.0.113.9"),
    Attack("address-never-given", _OPEN, _exchange("198.18.77.77", 443, b"\x16\x03"), reason=_NO_NAME),
    _tunnel("ipv6-loopback", "[::1]:7070", _ADDRESS_FORBIDDEN),
    _tunnel("ipv6-mapped", "[::ffff:127.0.0.1]:7070", _ADDRESS_FORBIDDEN),
    _tunnel("ipv6-compatible", "[::127.0.0.1]:7070", _ADDRESS_FORBIDDEN),
    _tunnel("ipv6-nat64", "[64:ff9b::a9fe:a9fe]:80", _ADDRESS_FORBIDDEN),
    _tunnel("ipv6-6to4", "[2002:7f00:1::]:7070", _ADDRESS_FORBIDDEN),
    _tunnel("ipv6-link-local", "[fe80::1]:7070", _ADDRESS_FORBIDDEN),
    _tunnel("ipv6-private", "[fd00:ec2::254]:80", _ADDRESS_FORBIDDEN),
    _tunnel("address-decimal", "2130706433:7070", _NAME_INVALID),
    _tunnel("address-hexadecimal", "0x7f000001:7070", _NAME_INVALID),
    _tunnel("address-octal", "0177.0.0.1:7070", _NAME_INVALID),
    _tunnel("address-short", "127.1:7070", _NAME_INVALID),
    _tunnel("address-restricted", f"{ALLOWED}:443", _NO_NAME, _RESTRICTED),
    _name("name-to-loopback", "127.0.0.1"),
    _name("name-to-metadata", "169.254.169.254"),
    _name("name-to-private", "10.0.0.5"),
    _name("name-to-host", HOST),
    _name("name-to-ipv6-loopback", "::1"),
    _name("name-to-ipv6-mapped", "::ffff:10.0.0.5"),
    _name("name-to-many", "127.0.0.1", "10.0.0.5", "::1", "fd00::1"),
    Attack("report-only-metadata", _REPORT, _exchange("169.254.169.254", 80, get("x")), reason=_ADDRESS_FORBIDDEN),
]

_PACKETS = [
    _datagram("udp-quic", ALLOWED, 443),
    _datagram("udp-ntp", ALLOWED, 123),
    _datagram("udp-host", HOST, API_PORT),
    _datagram("udp-multicast", "239.255.255.250", 1900, "Error"),
    Attack("ipv6-socket", _OPEN, "print(datagram('2001:4860:4860::8888', 53, socket.AF_INET6))", ("OSError",)),
    Attack(
        "ipv6-turned-on",
        _OPEN,
        "setting = '/proc/sys/net/ipv6/conf/eth0/disable_ipv6'\n"
        "open(setting, 'w').write('0')\ntime.sleep(2)\n"
        "print([datagram(f'{each}%eth0', 7070, socket.AF_INET6) for each in ('ff02::1', 'fe80::1')])\n"
        "open(setting, 'w').write('1')",
        ("Error", "Error"),
    ),
    Attack(
        "another-address",
        _OPEN,
        "take_address('198.18.0.9')\nwith socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:\n"
        f" s.settimeout(2)\n s.bind(('198.18.0.9', 0))\n print(s.connect_ex(({ALLOWED!r}, 443)))",
        ("11",),
    ),
    Attack(
        "another-device",
        _OPEN,
        "print(os.system('ip link add link eth0 name v0 address 52:54:00:00:00:77 type macvlan mode bridge"
        " && ip link set v0 up') != 0 or open('/sys/class/net/v0/operstate').read())",
    ),
    _frames(
        "icmp-tunnel",
        *(_packet(icmp(8, content=b"data"), ICMP, to=to) for to in (ALLOWED, GATEWAY_ADDRESS)),
        _packet(icmp(5, 1, content=bytes(4) + _syn()), ICMP, to=GATEWAY_ADDRESS),
    ),
    *(
        _frames(f"protocol-{name}", _packet(content, number))
        for name, number, content in (
            ("gre", 47, bytes(40)),
            ("ip-in-ip", 4, _syn()),
            ("ipv6-in-ip", 41, ipv6(bytes(8), "2001:db8::1", protocol=UDP)),
            ("sctp", 132, bytes(40)),
            ("udp-lite", 136, bytes(40)),
        )
    ),
    _frames(
        "ipv6-frames",
        ethernet(ipv6(icmpv6(134, bytes(12), "ff02::1"), "ff02::1", protocol=ICMPV6), kind=IPV6_TYPE),
        ethernet(ipv6(bytes(20), "::1", protocol=TCP), kind=IPV6_TYPE),
    ),
    *(
        _frames(f"spoofed-source-{name}", ethernet(_syn(source=source)))
        for name, source in (
            ("sandbox", "198.18.0.6"),
            ("gateway", GATEWAY_ADDRESS),
            ("loopback", "127.0.0.1"),
            ("host", HOST),
            ("none", "0.0.0.0"),
        )
    ),
    _frames("spoofed-mac", ethernet(_syn(), source="52:54:00:00:00:03")),
    _frames("broadcast-mac", ethernet(_syn(), to=BROADCAST_MAC)),
    _frames("loopback-frame", *(ethernet(_syn(to, API_PORT)) for to in ("127.0.0.1", "0.0.0.0", "255.255.255.255"))),
    _frames("answer-to-nothing", _packet(tcp(GATEWAY_ADDRESS, API_PORT, flags=SYN | ACK), TCP, to=GATEWAY_ADDRESS)),
    _frames(
        "fragments", _packet(udp(bytes(64), ALLOWED, 53), UDP, fragment=0x2000), _packet(bytes(64), UDP, fragment=8)
    ),
    _frames(
        "source-routing",
        ethernet(
            ip(tcp(ALLOWED, 443), ALLOWED, protocol=TCP, options=bytes((131, 7, 4, 192, 168, 7, 2, 0))),
        ),
    ),
    _frames("vlan", tagged(ethernet(_syn()), 5), tagged(tagged(ethernet(_syn()), 5), 6, kind=QINQ_TYPE)),
    _frames(
        "arp",
        ethernet(arp(GATEWAY_ADDRESS, sender=GATEWAY_ADDRESS), kind=ARP_TYPE, to=BROADCAST_MAC),
        ethernet(arp(HOST, operation=2, sender=HOST), kind=ARP_TYPE),
        ethernet(arp(HOST), kind=ARP_TYPE, to=BROADCAST_MAC),
    ),
    _frames(
        "dhcp",
        ethernet(
            ip(udp(bytes(240), "255.255.255.255", 67), "255.255.255.255", protocol=UDP, source="0.0.0.0"),
            to=BROADCAST_MAC,
        ),
    ),
    _frames(
        "unknown-ethertype", *(ethernet(bytes(60), kind=kind, to=BROADCAST_MAC) for kind in (0x88CC, 0x8863, 0x88E5))
    ),
    _frames("truncated", ethernet(b""), ethernet(b"E"), ethernet(b"\x4f" + bytes(19)), _packet(b"", TCP)),
]

_NAMED = [
    _hello("sni-not-allowed", hello(b"denied.example"), _NAME_NOT_ALLOWED),
    _hello("sni-missing", client_hello(None), _NO_NAME),
    _hello("sni-address", hello(b"93.184.216.11"), _NO_NAME),
    _hello("sni-suffix", hello(b"notallowed.example"), _NAME_NOT_ALLOWED),
    _hello("sni-prefix", hello(b"allowed.example.denied.example"), _NAME_NOT_ALLOWED),
    _hello("sni-nul", hello(b"allowed.example\0.denied.example"), _NAME_INVALID),
    _hello("sni-homograph", hello("\u0430llowed.example".encode("idna")), _NAME_NOT_ALLOWED),
    _hello("sni-unicode", hello("\u0430llowed.example".encode()), _NAME_INVALID),
    _hello("sni-wildcard", hello(b"*.example"), _NAME_INVALID),
    _hello(
        "sni-twice",
        with_extension(hello(b"allowed.example"), SERVER_NAME, server_name(b"denied.example")),
        _MALFORMED,
    ),
    _hello(
        "ech-outer-denied", with_extension(hello(b"denied.example"), ENCRYPTED_HELLO, bytes(200)), _NAME_NOT_ALLOWED
    ),
    Attack(
        "hello-too-large",
        _RESTRICTED,
        f"print(exchange({DENIED!r}, 443, b'\\x16\\x03\\x01\\x40\\x00\\x01\\x00\\xff\\xff' + bytes(16380)))",
        (_ALERT,),
        _MALFORMED,
    ),
    Attack(
        "sni-of-another-server",
        _RESTRICTED,
        f"print(https({DENIED!r}, 'allowed.example'))",
        ("allowed.example for allowed.example",),
        Reason.ALLOWED_NAME,
        Decision.ALLOWED,
        _TO_ALLOWED,
    ),
    Attack(
        "sni-case-and-dot",
        _RESTRICTED,
        f"print(exchange({DENIED!r}, 443, {hello(b'ALLOWED.eXample.')!r})[:3])",
        (r"\x16\x03\x03",),
        Reason.ALLOWED_NAME,
        Decision.ALLOWED,
        _TO_ALLOWED,
    ),
    _http("http-for-a-name-of-https", get("allowed.example"), _PORT_NOT_ALLOWED),
    _http("http-host-denied", get("denied.example"), _NAME_NOT_ALLOWED),
    _http("http-no-host", request("GET / HTTP/1.1"), _NO_NAME),
    _http("http-host-address", get(DENIED), _NO_NAME),
    _http("http-two-hosts", get("packages.example", "Host: denied.example"), _NAME_MISMATCH),
    _http(
        "http-other-url",
        request("GET http://denied.example/ HTTP/1.1", "Host: packages.example"),
        _NAME_MISMATCH,
    ),
    _http(
        "http-port-in-url",
        request("GET http://packages.example:22/ HTTP/1.1", "Host: packages.example:22"),
        _PORT_NOT_ALLOWED,
    ),
    *(
        _http(f"smuggling-{name}", get("packages.example", *lines), _MALFORMED)
        for name, lines in {
            "length-and-chunks": ("Content-Length: 4", "Transfer-Encoding: chunked"),
            "two-lengths": ("Content-Length: 4", "Content-Length: 40"),
            "odd-chunks": ("Transfer-Encoding: xchunked",),
            "folded-line": (" Host: denied.example",),
            "bare-newline": ("X: y\nHost: denied.example",),
            "space-before-colon": ("Transfer-Encoding : chunked",),
            "too-many-lines": ("X: y",) * 300,
        }.items()
    ),
    Attack(
        "head-too-large",
        _PACKAGES,
        f"print(exchange({PACKAGES!r}, 80, {get('packages.example')[:-2]!r} + b'X: ' + b'x' * 70000))",
        (),
        _MALFORMED,
    ),
]

_PROTOCOLS = [
    _tunnel("connect-port-22", "allowed.example:22", _PORT_NOT_ALLOWED, _RESTRICTED),
    _tunnel("connect-port-25", "allowed.example:25", _PORT_NOT_ALLOWED, _RESTRICTED),
    _tunnel("connect-port-8443", "allowed.example:8443", _PORT_NOT_ALLOWED, _RESTRICTED),
    _tunnel("connect-port-0", "allowed.example:0", _MALFORMED, _RESTRICTED),
    _tunnel("connect-denied", "denied.example:443", _NAME_NOT_ALLOWED, _RESTRICTED),
    _inner("connect-other-sni", hello(b"denied.example"), _NAME_MISMATCH),
    _inner("connect-no-sni", client_hello(None), _NO_NAME),
    _inner("connect-then-ssh", b"SSH-2.0-x\r\n", _PROTOCOL_NOT_ALLOWED),
    _inner("connect-then-http", get("denied.example"), _PROTOCOL_NOT_ALLOWED),
    _first("ssh", 22, b"SSH-2.0-x\r\n", _PROTOCOL_NOT_ALLOWED),
    _first("ssh-on-443", 443, b"SSH-2.0-x\r\n", _PROTOCOL_NOT_ALLOWED),
    _first("smtp", 25, b"EHLO x\r\n", _PROTOCOL_NOT_ALLOWED),
    _first("socks", 1080, b"\x05\x01\x00", _PROTOCOL_NOT_ALLOWED),
    _first("http2-by-prior-knowledge", 80, request("PRI * HTTP/2.0") + b"SM\r\n\r\n", _PROTOCOL_NOT_ALLOWED),
    _first("tls-on-8443", 8443, hello(b"allowed.example"), _PORT_NOT_ALLOWED),
    _first("dns-over-tls", 853, hello(b"dns.example"), _NAME_NOT_ALLOWED),
    _first("dns-over-https", 443, hello(b"dns.example"), _NAME_NOT_ALLOWED),
    _first("dns-over-https-by-address", 443, client_hello(None), _NO_NAME),
    Attack(
        "dns-to-a-public-server", _RESTRICTED, "print(ask('x.example', server='8.8.8.8'))", ("3 0",), _NAME_NOT_ALLOWED
    ),
    Attack(
        "dns-tunnel",
        _RESTRICTED,
        "print(ask('c2VjcmV0.tunnel.example', 16, server='8.8.4.4'))",
        ("3 0",),
        _NAME_NOT_ALLOWED,
    ),
    *(
        Attack(id, spec, f"print(ask('c2VjcmV0.{name}', 16), ask('c2VjcmV0.{name}'))", ("0 0", "0 1"))
        for id, spec, name in (  # noqa: A001
            ("dns-tunnel-below-an-allowed-name", _RESTRICTED, "allowed.example"),
            ("dns-tunnel-in-open-mode", _OPEN, "tunnel.example"),
        )
    ),
    Attack("dns-zone-transfer", _OPEN, "print(ask('example', 252))", ("0 0",)),
    Attack(
        "dns-over-tcp",
        _RESTRICTED,
        "asked = question('over-tcp.example')\n"
        "print(exchange('8.8.8.8', 53, struct.pack('!H', len(asked)) + asked, patience_s=2)[5] & 15)",
        ("3",),
        _NAME_NOT_ALLOWED,
    ),
    Attack(
        "dns-rubbish",
        _RESTRICTED,
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        " for n in range(200): s.sendto(bytes([n] * n), ('198.18.0.1', 53))\n"
        "print(ask('allowed.example'))",
        ("0 1",),
    ),
]

# What a gateway that does not look into TLS cannot see: SECURITY.md says so, and this, that it is so.
_PASSES = [
    Attack(
        "domain-fronting",
        policy("front.example"),
        f"print(https({FRONT!r}, 'front.example', host='denied.example'))",
        ("front.example for denied.example",),
        Reason.ALLOWED_NAME,
        Decision.ALLOWED,
        frozenset({Arrived("tcp", FRONT, 443)}),
    ),
    Attack(
        "ech-outer-allowed",
        _RESTRICTED,
        _exchange(ALLOWED, 443, with_extension(hello(b"allowed.example"), ENCRYPTED_HELLO, bytes(200))),
        (),
        Reason.ALLOWED_NAME,
        Decision.ALLOWED,
        _TO_ALLOWED,
    ),
]


@pytest.mark.parametrize(
    "attack", [pytest.param(each, id=each.id) for each in (*_ADDRESSES, *_PACKETS, *_NAMED, *_PROTOCOLS, *_PASSES)]
)
async def test_attack(attack: Attack, stage: Stage) -> None:
    """The guest is told no, the world sees what the policy allows and no packet more, and the record says why."""
    stage.world.names.update(attack.names)
    await stage.set_policy(attack.policy)

    said = await stage.attack(attack.source)

    position = 0
    for words in attack.expected:
        position = said.find(words, position)
        assert position >= 0, said
    if attack.reason is not None:
        await stage.recorded(attack.reason, attack.decision)
    assert stage.arrived() == attack.arrives
    assert set(stage.world.asked) <= {*attack.names, "allowed.example", "packages.example", "front.example"}
    passed = {each.name for each in stage.records() if each.decision in {Decision.ALLOWED, Decision.REPORTED}}
    assert bool(passed) == (attack.decision is Decision.ALLOWED)
    if not passed:
        assert stage.heads == []


async def test_the_witnesses_see(stage: Stage) -> None:
    """What is allowed arrives where it is looked for; without that, nothing above would say anything."""
    await stage.set_policy(_OPEN)

    said = await stage.attack(f"print(https({DENIED!r}, 'denied.example'), https({ALLOWED!r}, 'x', port=8443))")

    assert said == "denied.example for denied.example allowed.example for x"
    assert stage.arrived() == {Arrived("tcp", DENIED, 443), Arrived("tcp", ALLOWED, 8443)}


async def test_frames_are_sent(stage: Stage) -> None:
    """A right frame by hand does reach the gateway: those above were dropped for what is wrong with them."""
    await stage.set_policy(_RESTRICTED)
    asked = dns.message.make_query("by-frame.example", "A").to_wire()

    await stage.attack(f"transmit({_packet(udp(asked, GATEWAY_ADDRESS, 53), UDP, to=GATEWAY_ADDRESS)!r})")

    assert (await stage.recorded(_NAME_NOT_ALLOWED)).name == "by-frame.example"
