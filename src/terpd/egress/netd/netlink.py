"""Just enough rtnetlink(7) to bring a namespace's two links up. Every message may be repeated."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

_RTM_SETLINK, _RTM_NEWADDR, _RTM_NEWROUTE, _RTM_NEWNEIGH = 19, 20, 24, 28
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_IFF_UP = 0x1
_IFLA_ADDRESS, _IFLA_AF_SPEC = 1, 26
_IFLA_INET_CONF = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF = 4
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL = 254, 4, 254, 2
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80

Request = tuple[int, bytes]


def link_up(index: int, mac: str | None = None, settings: Mapping[int, int] | None = None) -> Request:
    """*settings* are those of the link's IPv4 stack, by IPV4_DEVCONF_* of linux/ip.h."""
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
    if mac:
        body += _attribute(_IFLA_ADDRESS, _mac(mac))
    if settings:
        values = b"".join(_attribute(number, struct.pack("=I", value)) for number, value in settings.items())
        body += _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET, _attribute(_IFLA_INET_CONF, values)))
    return _RTM_SETLINK, body


def address(index: int, local: str, prefix_length: int) -> Request:
    body = struct.pack("=BBBBI", socket.AF_INET, prefix_length, 0, 0, index)
    packed = IPv4Address(local).packed
    return _RTM_NEWADDR, body + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)


def any_ip(loopback: int) -> Request:
    """
    A route that makes every address a local one.

    In the main table: in the local one, which is asked first, it would swallow the guest's own prefix.
    """
    kind = (_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL)
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, *kind, 0)
    return _RTM_NEWROUTE, body + _attribute(_RTA_OIF, struct.pack("=I", loopback))


def neighbour(index: int, of: str, mac: str) -> Request:
    """A permanent entry, which no answer of the guest replaces."""
    body = struct.pack("=BxHiHBB", socket.AF_INET, 0, index, _NUD_PERMANENT, 0, 0)
    return _RTM_NEWNEIGH, body + _attribute(_NDA_DST, IPv4Address(of).packed) + _attribute(_NDA_LLADDR, _mac(mac))


def apply(requests: Sequence[Request]) -> None:
    """Carry them out in order in the calling thread's namespace. Raises OSError of the first that failed."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        flags = _REQUEST | _ACK | _REPLACE | _CREATE
        for number, (kind, body) in enumerate(requests):
            sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0) + body)
            answer = sock.recv(8192)
            if _HEADER.unpack_from(answer)[1] != _NLMSG_ERROR:
                raise OSError("rtnetlink answered with what is no acknowledgement")
            (error,) = struct.unpack_from("=i", answer, _HEADER.size)
            if error:
                raise OSError(-error, f"rtnetlink request {kind}: {os.strerror(-error)}")


def _attribute(kind: int, content: bytes) -> bytes:
    length = 4 + len(content)
    return struct.pack("=HH", length, kind) + content + bytes(-length % 4)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
