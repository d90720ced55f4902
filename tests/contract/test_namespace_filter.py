"""
What a guest's packets can reach: three sockets of the gateway, and nothing else.

Every case is raw frames into the TAP, where QEMU would put them. It runs twice: as the namespace is made, and with
the kernel's own checks turned off, so that the packet filter is seen to hold by itself.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest
from support.cable import Baits, Cable, handshake, in_namespace, packet, reached, set_network
from support.frames import (
    ACK,
    ADMIN_PROHIBITED,
    ARP_TYPE,
    BROADCAST_MAC,
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMP,
    ICMPV6,
    IPV6_TYPE,
    QINQ_TYPE,
    RST,
    SYN,
    TCP,
    UDP,
    UNREACHABLE,
    arp,
    ethernet,
    icmp,
    icmpv6,
    ip,
    ipv6,
    mac,
    tagged,
    tcp,
    udp,
)

from terpd.egress.base import Sockets
from terpd.egress.netd.namespace import Helper
from terpd.model.network import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC

_PUBLIC = "192.0.2.80"  # TEST-NET-1
_CHECKS_OFF = {
    "ipv4/ip_forward": 1,
    "ipv4/icmp_echo_ignore_broadcasts": 0,
    **{
        f"ipv4/conf/{scope}/{name}": value
        for scope in ("all", "tap0")
        for name, value in {
            "accept_local": 1,
            "accept_source_route": 1,
            "arp_accept": 1,
            "arp_ignore": 0,
            "forwarding": 1,
            "proxy_arp": 1,
            "route_localnet": 1,
            "rp_filter": 0,
        }.items()
    },
    **{f"ipv6/conf/{scope}/disable_ipv6": 0 for scope in ("all", "tap0")},
    "ipv6/conf/all/forwarding": 1,
}


@pytest.fixture(scope="module")
def in_helper() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:  # the helper takes a thread for good
        yield thread


@pytest.fixture(scope="module")
def helper(in_helper: ThreadPoolExecutor) -> Helper:
    return in_helper.submit(Helper).result()


@pytest.fixture(params=["as made", "filter alone"])
def sockets(request: pytest.FixtureRequest, in_helper: ThreadPoolExecutor, helper: Helper) -> Iterator[Sockets]:
    made = Sockets(*in_helper.submit(helper.create).result())
    if request.param == "filter alone":
        in_namespace(made.namespace, lambda: [set_network(*setting) for setting in _CHECKS_OFF.items()])
    yield made
    for fd in (made.tap, made.namespace, made.tcp, made.dns_udp, made.dns_tcp):
        os.close(fd)


@pytest.fixture
def cable(sockets: Sockets) -> Cable:
    return Cable(sockets.tap)


@dataclass(frozen=True)
class Case:
    name: str
    frames: Sequence[bytes]


def _udp(name: str, to: str, port: int, *, source: str = GUEST_ADDRESS, content: bytes = b"hello") -> Case:
    return Case(name, [ethernet(ip(udp(content, to, port), to, protocol=UDP, source=source))])


def _tcp(name: str, to: str, port: int, *, source: str = GUEST_ADDRESS, flags: int = SYN) -> Case:
    segment = tcp(to, port, source=source, flags=flags)
    return Case(name, [ethernet(ip(segment, to, protocol=TCP, source=source))])


def _icmp(name: str, kind: int, to: str, *, code: int = 0, source: str = GUEST_ADDRESS) -> Case:
    inner = ip(udp(b"", GUEST_ADDRESS, 1), GUEST_ADDRESS, protocol=UDP, source=to)
    return Case(name, [ethernet(ip(icmp(kind, code, content=inner), to, protocol=ICMP, source=source))])


def _protocol(name: str, number: int, *, to: str = _PUBLIC, content: bytes = bytes(40)) -> Case:
    return Case(name, [ethernet(ip(content, to, protocol=number))])


def _ipv6(name: str, to: str, protocol: int, content: bytes, *, source: str = "fe80::2") -> Case:
    sent = ipv6(content, to, protocol=protocol, source=source)
    return Case(name, [ethernet(sent, kind=IPV6_TYPE, to=mac_to) for mac_to in (GATEWAY_MAC, BROADCAST_MAC)])


def _arp(name: str, content: bytes, *, to: str = BROADCAST_MAC, source: str = GUEST_MAC) -> Case:
    return Case(name, [ethernet(content, kind=ARP_TYPE, to=to, source=source)])


_SYN = tcp(_PUBLIC, 443)
_DNS = udp(b"question", _PUBLIC, 53)
_SYN_FRAME = ethernet(ip(_SYN, _PUBLIC, protocol=TCP))
_LONG_DNS = udp(bytes(1600), _PUBLIC, 53)
_SOURCE_ROUTE = bytes([131, 7, 4]) + IPv4Address("127.0.0.1").packed + b"\0"
_RECORD_ROUTE = bytes([7, 7, 4]) + bytes(4) + b"\0"
_MORE_FRAGMENTS = 0x2000

_RA = icmpv6(134, struct.pack("!BBHII", 64, 0, 1800, 0, 0), "ff02::1")
_NS = icmpv6(135, bytes(4) + bytes(15) + b"\1", "ff02::1:ff00:1")
_NA = icmpv6(136, bytes(4) + bytes(15) + b"\2", "ff02::1")
_REDIRECT = icmpv6(137, bytes(36), "ff02::1")
_MLD = icmpv6(143, bytes(4), "ff02::16")
_ECHO6 = icmpv6(128, bytes(4), "ff02::1")

SILENT = [
    # addresses that only the host, or nobody, may be
    _tcp("host loopback, TCP", "127.0.0.1", 8080),
    _tcp("host loopback, the gateway's port", "127.0.0.1", 3000),
    _tcp("host loopback, DNS over TCP", "127.0.0.1", 53),
    _udp("host loopback, DNS", "127.0.0.1", 53),
    _udp("host loopback, UDP", "127.0.0.53", 443),
    _icmp("host loopback, ping", ECHO_REQUEST, "127.0.0.1"),
    _tcp("this network", "0.0.0.0", 8080),
    _udp("this network, DNS", "0.0.0.0", 53),
    _udp("DHCP", "255.255.255.255", 67),
    _udp("limited broadcast, DNS", "255.255.255.255", 53),
    _tcp("limited broadcast, TCP", "255.255.255.255", 443),
    _udp("subnet broadcast, DNS", "198.18.0.3", 53),
    _tcp("subnet broadcast, TCP", "198.18.0.3", 443),
    _icmp("subnet broadcast, ping", ECHO_REQUEST, "198.18.0.3"),
    _tcp("subnet zero, TCP", "198.18.0.0", 443),
    _tcp("itself, TCP", GUEST_ADDRESS, 443),
    _udp("itself, DNS", GUEST_ADDRESS, 53),
    _udp("multicast DNS", "224.0.0.251", 5353),
    _udp("multicast, DNS", "224.0.0.251", 53),
    _udp("SSDP", "239.255.255.250", 1900),
    _tcp("multicast, TCP", "224.0.0.1", 443),
    _icmp("multicast, ping", ECHO_REQUEST, "224.0.0.1"),
    _tcp("reserved, TCP", "240.0.0.1", 443),
    # sources that are not the guest
    _tcp("spoofed source, TCP", _PUBLIC, 443, source="198.51.100.7"),
    _udp("spoofed source, DNS", _PUBLIC, 53, source="198.51.100.7"),
    _tcp("spoofed source, the gateway", _PUBLIC, 443, source=GATEWAY_ADDRESS),
    _udp("spoofed source, loopback", _PUBLIC, 53, source="127.0.0.1"),
    _udp("spoofed source, any", _PUBLIC, 53, source="0.0.0.0"),
    _udp("spoofed source, broadcast", _PUBLIC, 53, source="255.255.255.255"),
    _udp("spoofed source, multicast", _PUBLIC, 53, source="224.0.0.1"),
    _icmp("spoofed source, ping", ECHO_REQUEST, GATEWAY_ADDRESS, source="198.51.100.7"),
    Case("spoofed MAC", [ethernet(ip(_SYN, _PUBLIC, protocol=TCP), source="02:00:00:00:00:99")]),
    Case("another's MAC as destination", [ethernet(ip(_SYN, _PUBLIC, protocol=TCP), to="02:00:00:00:00:99")]),
    Case("broadcast MAC, TCP", [ethernet(ip(_SYN, _PUBLIC, protocol=TCP), to=BROADCAST_MAC)]),
    Case("broadcast MAC, DNS", [ethernet(ip(_DNS, _PUBLIC, protocol=UDP), to=BROADCAST_MAC)]),
    Case("multicast MAC, DNS", [ethernet(ip(_DNS, _PUBLIC, protocol=UDP), to="01:00:5e:00:00:fb")]),
    # ICMP
    _icmp("ping of a public address", ECHO_REQUEST, _PUBLIC),
    _icmp("echo reply", ECHO_REPLY, GATEWAY_ADDRESS),
    _icmp("redirect", 5, GATEWAY_ADDRESS, code=1),
    _icmp("fragmentation needed", UNREACHABLE, GATEWAY_ADDRESS, code=4),
    _icmp("timestamp request", 13, GATEWAY_ADDRESS),
    _icmp("address mask request", 17, GATEWAY_ADDRESS),
    _icmp("router advertisement", 9, GATEWAY_ADDRESS),
    # other protocols
    _protocol("IGMP", 2, to="224.0.0.22"),
    _protocol("IP in IP", 4, content=ip(_SYN, "127.0.0.1", protocol=TCP)),
    _protocol("GRE", 47),
    _protocol("GRE to the gateway", 47, to=GATEWAY_ADDRESS),
    _protocol("ESP", 50),
    _protocol("AH", 51),
    _protocol("OSPF", 89),
    _protocol("L2TP", 115),
    _protocol("SCTP", 132),
    _protocol("SCTP to the gateway", 132, to=GATEWAY_ADDRESS),
    _protocol("UDP-Lite", 136),
    _protocol("DCCP", 33),
    _protocol("protocol 255", 255),
    _protocol("protocol 0", 0),
    # fragments and options
    Case("first fragment, DNS", [ethernet(ip(_LONG_DNS[:800], _PUBLIC, protocol=UDP, fragment=_MORE_FRAGMENTS))]),
    Case(
        "whole datagram in fragments, DNS",
        [
            ethernet(ip(_LONG_DNS[:800], _PUBLIC, protocol=UDP, fragment=_MORE_FRAGMENTS)),
            ethernet(ip(_LONG_DNS[800:], _PUBLIC, protocol=UDP, fragment=100)),
        ],
    ),
    Case(
        "whole segment in fragments, TCP",
        [
            ethernet(ip(_SYN[:8], _PUBLIC, protocol=TCP, fragment=_MORE_FRAGMENTS)),
            ethernet(ip(_SYN[8:], _PUBLIC, protocol=TCP, fragment=1)),
        ],
    ),
    Case("last fragment, TCP", [ethernet(ip(_SYN, _PUBLIC, protocol=TCP, fragment=1))]),
    Case("source route, TCP", [ethernet(ip(_SYN, _PUBLIC, protocol=TCP, options=_SOURCE_ROUTE))]),
    Case("record route, DNS", [ethernet(ip(_DNS, _PUBLIC, protocol=UDP, options=_RECORD_ROUTE))]),
    # malformed
    Case("cut IP header", [ethernet(ip(_SYN, _PUBLIC, protocol=TCP)[:12])]),
    Case("empty IP packet", [ethernet(b"")]),
    Case("cut TCP header", [ethernet(ip(_SYN[:4], _PUBLIC, protocol=TCP))]),
    Case("IP version 6 with IPv4's type", [ethernet(b"\x65" + ip(_SYN, _PUBLIC, protocol=TCP)[1:])]),
    Case("header shorter than a header", [ethernet(b"\x44" + ip(_SYN, _PUBLIC, protocol=TCP)[1:])]),
    # IPv6, natively and within IPv4
    _ipv6("IPv6 TCP", "2001:db8::1", TCP, _SYN, source="2001:db8::2"),
    _ipv6("IPv6 TCP to loopback", "::1", TCP, tcp("0.0.0.0", 8080)),
    _ipv6("IPv6 UDP, DNS", "2001:db8::53", UDP, _DNS),
    _ipv6("IPv6 to a mapped IPv4 address", "::ffff:127.0.0.1", TCP, tcp("127.0.0.1", 8080)),
    _ipv6("IPv6 to a 6to4 address", "2002:7f00:1::1", TCP, _SYN),
    _ipv6("IPv6 to a NAT64 address", "64:ff9b::7f00:1", TCP, _SYN),
    _ipv6("IPv6 multicast DNS", "ff02::fb", UDP, udp(b"question", "0.0.0.0", 5353)),
    _ipv6("IPv6 ping of all nodes", "ff02::1", ICMPV6, _ECHO6),
    _ipv6("router advertisement, IPv6", "ff02::1", ICMPV6, _RA, source="fe80::1"),
    _ipv6("neighbour solicitation", "ff02::1:ff00:1", ICMPV6, _NS),
    _ipv6("neighbour advertisement", "ff02::1", ICMPV6, _NA),
    _ipv6("redirect, IPv6", "ff02::1", ICMPV6, _REDIRECT),
    _ipv6("multicast listener report", "ff02::16", ICMPV6, _MLD),
    _ipv6("IPv6 hop-by-hop options", "ff02::1", 0, bytes([58, 0, 5, 2, 0, 0, 1, 0]) + _MLD),
    _protocol("6to4 and 6in4", 41, content=ipv6(_SYN, "2002:c000:250::1", protocol=TCP)),
    _protocol("6in4 to the gateway", 41, to=GATEWAY_ADDRESS, content=ipv6(_ECHO6, "ff02::1", protocol=ICMPV6)),
    # other links
    Case("VLAN", [tagged(_SYN_FRAME, 10)]),
    Case("VLAN with DNS", [tagged(ethernet(ip(_DNS, _PUBLIC, protocol=UDP)), 4094)]),
    Case("two VLAN tags", [tagged(tagged(_SYN_FRAME, 10), 20, kind=QINQ_TYPE)]),
    Case("VLAN in VLAN 0", [tagged(tagged(_SYN_FRAME, 10), 0)]),
    Case("VLAN with ARP", [tagged(ethernet(arp(GATEWAY_ADDRESS), kind=ARP_TYPE, to=BROADCAST_MAC), 10)]),
    Case("MPLS", [ethernet(struct.pack("!I", 0x00010140) + ip(_SYN, _PUBLIC, protocol=TCP), kind=0x8847)]),
    Case("PPPoE", [ethernet(bytes.fromhex("11000001002a0021") + ip(_SYN, _PUBLIC, protocol=TCP), kind=0x8864)]),
    Case("LLDP", [ethernet(bytes(46), kind=0x88CC, to="01:80:c2:00:00:0e")]),
    Case("spanning tree", [ethernet(b"\x42\x42\x03" + bytes(43), kind=46, to="01:80:c2:00:00:00")]),
    Case("EAPOL", [ethernet(bytes(46), kind=0x888E, to="01:80:c2:00:00:03")]),
    Case("wake on LAN", [ethernet(b"\xff" * 6 + mac(GATEWAY_MAC) * 16, kind=0x0842, to=BROADCAST_MAC)]),
    Case("header alone", [ethernet(b"", kind=0xFFFF)]),
    # ARP
    _arp("ARP for another address", arp(_PUBLIC)),
    _arp("ARP for the host's loopback", arp("127.0.0.1")),
    _arp("ARP for a neighbour in the range", arp("198.18.0.5")),
    _arp("gratuitous ARP as the gateway", arp(GATEWAY_ADDRESS, sender=GATEWAY_ADDRESS)),
    _arp("ARP reply as the gateway", arp(GUEST_ADDRESS, operation=2, sender=GATEWAY_ADDRESS)),
    _arp("ARP reply as itself, elsewhere", arp(GATEWAY_ADDRESS, operation=2, sender_mac="02:00:00:00:00:99")),
    _arp("ARP from another address", arp(GATEWAY_ADDRESS, sender="198.51.100.7")),
    _arp("ARP from another MAC", arp(GATEWAY_ADDRESS), source="02:00:00:00:00:99"),
    _arp("ARP probe", arp(GUEST_ADDRESS, sender="0.0.0.0")),
    _arp("RARP", arp(GUEST_ADDRESS, operation=3)),
]

PROHIBITED = [
    _udp("UDP to a public address", _PUBLIC, 9999),
    _udp("QUIC", _PUBLIC, 443),
    _udp("NTP", _PUBLIC, 123),
    _udp("VXLAN", _PUBLIC, 4789),
    _udp("Teredo", _PUBLIC, 3544),
    _udp("UDP to the gateway", GATEWAY_ADDRESS, 8080),
    _udp("UDP to the gateway's TCP port", GATEWAY_ADDRESS, 3000),
    _udp("UDP to a link-local address", "169.254.169.254", 80),
    _udp("UDP to port 0", _PUBLIC, 0),
]


def _named(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", SILENT, ids=_named)
def test_dropped_without_a_word(case: Case, sockets: Sockets, cable: Cable) -> None:
    """It reaches no socket of any kind, and nothing comes back."""
    with Baits(sockets.namespace) as baits:
        answers = cable.exchange(*case.frames)

        assert baits.caught() == []
    assert reached(sockets) == []
    assert answers == []


@pytest.mark.parametrize("sockets", ["filter alone"], indirect=True)
@pytest.mark.parametrize("case", SILENT, ids=_named)
def test_the_second_layer_holds_alone(case: Case, sockets: Sockets, cable: Cable) -> None:
    """Without the chain at the device it may reach the gateway, which decides, yet no other socket."""
    in_namespace(sockets.namespace, lambda: subprocess.run(["nft", "delete", "table", "netdev", "terp"], check=True))

    with Baits(sockets.namespace) as baits:
        cable.send(*case.frames)

        assert [catch for catch in baits.caught() if "SOCK_RAW" not in catch] == []
    if case.name.startswith(("spoofed source", "IPv6", "itself")):
        assert reached(sockets) == []
        assert cable.received() == []  # nor is it forwarded


@pytest.mark.parametrize("case", PROHIBITED, ids=_named)
def test_refused_at_once(case: Case, sockets: Sockets, cable: Cable) -> None:
    """It reaches no socket, and the guest is told, so that a client falls back to TCP without waiting."""
    with Baits(sockets.namespace) as baits:
        (answer,) = cable.exchange(*case.frames)

        assert baits.caught() == []
    assert reached(sockets) == []
    got = packet(answer)
    assert (got.to, got.icmp) == (GUEST_ADDRESS, (UNREACHABLE, ADMIN_PROHIBITED))


@pytest.mark.parametrize(
    ("to", "port"),
    [(_PUBLIC, 443), ("10.0.0.8", 22), ("169.254.169.254", 80), (GATEWAY_ADDRESS, 3000), (GATEWAY_ADDRESS, 8080)],
    ids=str,
)
def test_tcp_is_the_gateways(to: str, port: int, sockets: Sockets, cable: Cable) -> None:
    """Whatever is dialled, the gateway accepts it and sees whom the guest meant; a listener there gets nothing."""
    with Baits(sockets.namespace) as baits:
        handshake(cable, to, port)

        assert [catch for catch in baits.caught() if "SOCK_RAW" not in catch] == []
    assert reached(sockets) == [f"tcp ('{to}', {port})"]


def test_tcp_to_dns_is_a_socket_of_its_own(sockets: Sockets, cable: Cable) -> None:
    """Port 53 of any destination."""
    handshake(cable, "8.8.8.8", 53)

    assert reached(sockets) == ["dns_tcp ('8.8.8.8', 53)"]


def test_stray_segment_is_reset(sockets: Sockets, cable: Cable) -> None:
    """A connection of before a restore is over at once instead of hanging."""
    segment = tcp(_PUBLIC, 443, flags=ACK, acknowledged=77)

    (answer,) = cable.exchange(ethernet(ip(segment, _PUBLIC, protocol=TCP)))

    assert packet(answer).content[13] & RST
    assert reached(sockets) == []


def test_dns_is_answered_as_whom_the_guest_asked(sockets: Sockets, cable: Cable) -> None:
    """A hard-coded resolver works: the question says whom it was for, and the answer comes from there."""
    question = ethernet(ip(udp(b"question", "8.8.8.8", 53), "8.8.8.8", protocol=UDP))

    assert cable.exchange(question) == []
    with socket.socket(fileno=os.dup(sockets.dns_udp)) as sock:
        content, ancillary, _, source = sock.recvmsg(512, 64)
        (info,) = [found for _, kind, found in ancillary if kind == 8]  # IP_PKTINFO
        asked = info[8:12]
        sock.sendmsg([b"answer"], [(socket.SOL_IP, 8, struct.pack("=I4s4x", 0, asked))], 0, source)

    assert (content, str(IPv4Address(asked))) == (b"question", "8.8.8.8")
    (answer,) = cable.exchange()
    assert packet(answer).source == "8.8.8.8"
    assert packet(answer).content[8:] == b"answer"


def test_the_gateway_answers_ping_and_arp(cable: Cable) -> None:
    """With the same MAC in every namespace, which a restored guest knows already."""
    echo = ethernet(ip(icmp(ECHO_REQUEST, identifier=5), GATEWAY_ADDRESS, protocol=ICMP))
    question = ethernet(arp(GATEWAY_ADDRESS), kind=ARP_TYPE, to=BROADCAST_MAC)

    pong, known = cable.exchange(echo, question)

    assert packet(pong).icmp == (ECHO_REPLY, 0)
    assert known[:14] == mac(GUEST_MAC) + mac(GATEWAY_MAC) + struct.pack("!H", ARP_TYPE)
    assert known[22:32] == mac(GATEWAY_MAC) + IPv4Address(GATEWAY_ADDRESS).packed


def test_refusals_are_bounded(cable: Cable) -> None:
    """A flood of UDP is not answered with a flood of ICMP."""
    flood = [ethernet(ip(udp(b"", _PUBLIC, 9999), _PUBLIC, protocol=UDP))] * 400

    answers = cable.exchange(*flood)

    assert 100 <= len(answers) < 300  # the burst, and what a busy machine lets through while it lasts


def test_the_gateways_sockets_reach_the_guest_alone(sockets: Sockets, cable: Cable) -> None:
    """A socket made in the namespace cannot send to anybody else, nor the guest anything but TCP, DNS and ICMP."""

    def send(sock: socket.socket, to: str) -> int:
        try:
            return sock.sendto(b"hello", (to, 9999))
        except OSError as error:
            return -(error.errno or 0)

    with (
        in_namespace(sockets.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other,
        socket.socket(fileno=os.dup(sockets.dns_udp)) as dns,
    ):
        assert [send(other, to) for to in (GUEST_ADDRESS, _PUBLIC, "127.0.0.1")] == [-errno.EPERM] * 3
        assert [send(dns, to) for to in (_PUBLIC, "127.0.0.1")] == [-errno.EPERM] * 2
        assert cable.exchange() == []
        assert send(dns, GUEST_ADDRESS) == len(b"hello")
        assert len(cable.exchange()) == 1


def test_nothing_leads_out(sockets: Sockets) -> None:
    """The namespace has loopback and the guest's cable, and no route by another way."""
    links = in_namespace(sockets.namespace, lambda: [name for _, name in socket.if_nameindex()])

    assert sorted(links) == ["lo", "tap0"]


def test_quiet_by_itself(in_helper: ThreadPoolExecutor, helper: Helper) -> None:
    """The kernel says nothing to a guest that says nothing: no router solicitation, no IGMP, no ARP."""
    made = Sockets(*in_helper.submit(helper.create).result())

    said = Cable(made.tap).received()

    for fd in (made.tap, made.namespace, made.tcp, made.dns_udp, made.dns_tcp):
        os.close(fd)
    assert said == []


def _dial(helper: Helper, sockets: Sockets, port: int) -> Callable[[], list[int]]:
    return lambda: helper.connect(sockets.namespace, port)


def test_dialling_the_guest(in_helper: ThreadPoolExecutor, helper: Helper, sockets: Sockets, cable: Cable) -> None:
    """A preview's connection comes from the gateway's address, and the guest's answer finds it."""
    (connecting,) = in_helper.submit(_dial(helper, sockets, 8000)).result()

    with socket.socket(fileno=connecting) as sock:
        (opening,) = cable.exchange()
        got = packet(opening)
        port, _, sequence = struct.unpack_from("!HHI", got.content)
        answer = tcp(GATEWAY_ADDRESS, port, flags=SYN | ACK, source_port=8000, sequence=500, acknowledged=sequence + 1)
        cable.send(ethernet(ip(answer, GATEWAY_ADDRESS, protocol=TCP)))

        assert opening[:12] == mac(GUEST_MAC) + mac(GATEWAY_MAC)  # without having asked for it by ARP
        assert got.source == GATEWAY_ADDRESS
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.getpeername() == (GUEST_ADDRESS, 8000)
