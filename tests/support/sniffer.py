"""What arrives in a network, whoever sent it: the witness that nothing of a guest's does."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

_ALL = 3  # linux/if_ether.h: ETH_P_ALL
_IPV4, _IPV6 = 0x0800, 0x86DD
_TO_US = 0  # linux/if_packet.h: PACKET_HOST; what is sent is seen, too
_ICMPV6 = 58
_DNS = (53).to_bytes(2)
_NAMES = {1: "icmp", 6: "tcp", 17: "udp"}
_SYN, _ACK = 0x02, 0x10
_BUFFER_BYTES = 8 << 20
_BUFFER_FORCE = 33  # asm/socket.h: SO_RCVBUFFORCE


class Arrived(NamedTuple):
    """*port* is 0 where the protocol has none."""

    protocol: str
    to: str
    port: int


class Sniffer:
    """
    Args:
        made: A socket of the network, by `opened` below.
        name_server: What is sent to it and what it answers is not told.
    """

    def __init__(self, made: socket.socket, *, name_server: str) -> None:
        self._socket = made
        self._name_server = socket.inet_aton(name_server)

    def drain(self) -> set[Arrived]:
        """What arrived since the last time: IP packets, of TCP only those that begin a connection."""
        arrived = set()
        while True:
            try:
                packet, (_, kind, direction, _, _) = self._socket.recvfrom(200)
            except BlockingIOError:
                return arrived
            if direction == _TO_US and not self._of_name_server(packet) and (found := _read(packet, kind)) is not None:
                arrived.add(found)

    def _of_name_server(self, packet: bytes) -> bool:
        return packet[9] == socket.IPPROTO_UDP and (
            (packet[12:16] == self._name_server and packet[20:22] == _DNS)
            or (packet[16:20] == self._name_server and packet[22:24] == _DNS)
        )

    def close(self) -> None:
        self._socket.close()


def opened() -> socket.socket:
    """In the calling thread's network."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, _BUFFER_BYTES)
    return made


def _read(packet: bytes, kind: int) -> Arrived | None:
    if kind == _IPV4:
        number, to = packet[9], ipaddress.ip_address(packet[16:20])
        inner = packet[(packet[0] & 15) * 4 :]
    elif kind == _IPV6 and packet[6] not in {0, _ICMPV6}:  # the kernel's own search for neighbours
        number, to = packet[6], ipaddress.ip_address(packet[24:40])
        inner = packet[40:]
    else:
        return None
    if number == socket.IPPROTO_TCP and inner[13] & (_SYN | _ACK) != _SYN:
        return None
    port = struct.unpack_from("!H", inner, 2)[0] if number in {socket.IPPROTO_TCP, socket.IPPROTO_UDP} else 0
    return Arrived(_NAMES.get(number, str(number)), str(to), port)
