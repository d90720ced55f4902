"""Ethernet frames by hand, as a guest may send them: right ones, and any other."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from terpd.model.network import GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC

ICMP, IGMP, TCP, UDP, ICMPV6 = 1, 2, 6, 17, 58
ARP_TYPE, IP_TYPE, IPV6_TYPE, VLAN_TYPE, QINQ_TYPE = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
SYN, RST, ACK = 0x02, 0x04, 0x10
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
ECHO_REPLY, UNREACHABLE, ECHO_REQUEST = 0, 3, 8
ADMIN_PROHIBITED = 13


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(payload: bytes, *, kind: int = IP_TYPE, source: str = GUEST_MAC, to: str = GATEWAY_MAC) -> bytes:
    return mac(to) + mac(source) + struct.pack("!H", kind) + payload


def ip(
    payload: bytes,
    to: str,
    *,
    protocol: int,
    source: str = GUEST_ADDRESS,
    options: bytes = b"",
    fragment: int = 0,
    number: int = 1,
) -> bytes:
    """*fragment* is the field of flags and offset; *options* fill whole words of four."""
    words = 5 + len(options) // 4
    total = words * 4 + len(payload)
    addresses = IPv4Address(source).packed + IPv4Address(to).packed
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, total, number, fragment, 64, protocol, 0) + addresses + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(content: bytes, to: str, port: int, *, source: str = GUEST_ADDRESS, source_port: int = 40000) -> bytes:
    return struct.pack("!HHHH", source_port, port, 8 + len(content), 0) + content  # no checksum: allowed in IPv4


def tcp(
    to: str,
    port: int,
    *,
    flags: int = SYN,
    source: str = GUEST_ADDRESS,
    source_port: int = 40000,
    sequence: int = 1000,
    acknowledged: int = 0,
    content: bytes = b"",
) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, port, sequence, acknowledged, 0x50, flags, 65535, 0, 0)
    pseudo = IPv4Address(source).packed + IPv4Address(to).packed + struct.pack("!BBH", 0, TCP, len(head + content))
    return head[:16] + struct.pack("!H", checksum(pseudo + head + content)) + head[18:] + content


def icmp(kind: int, code: int = 0, *, identifier: int = 1, content: bytes = b"") -> bytes:
    head = struct.pack("!BBHHH", kind, code, 0, identifier, 0) + content
    return head[:2] + struct.pack("!H", checksum(head)) + head[4:]


def arp(
    asked: str, *, operation: int = 1, sender: str = GUEST_ADDRESS, sender_mac: str = GUEST_MAC, target_mac: str = ""
) -> bytes:
    addresses = mac(sender_mac) + IPv4Address(sender).packed + (mac(target_mac) or bytes(6)) + IPv4Address(asked).packed
    return struct.pack("!HHBBH", 1, IP_TYPE, 6, 4, operation) + addresses


def ipv6(payload: bytes, to: str, *, protocol: int, source: str = "fe80::2", hops: int = 255) -> bytes:
    head = struct.pack("!IHBB", 0x60000000, len(payload), protocol, hops)
    return head + IPv6Address(source).packed + IPv6Address(to).packed + payload


def icmpv6(kind: int, content: bytes, to: str, *, source: str = "fe80::2") -> bytes:
    head = struct.pack("!BBH", kind, 0, 0) + content
    pseudo = IPv6Address(source).packed + IPv6Address(to).packed + struct.pack("!II", len(head), ICMPV6)
    return head[:2] + struct.pack("!H", checksum(pseudo + head)) + head[4:]


def tagged(frame: bytes, vlan: int, *, kind: int = VLAN_TYPE) -> bytes:
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def checksum(content: bytes) -> int:
    """Of RFC 1071."""
    content += bytes(len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
