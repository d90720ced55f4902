"""What the kernel would do with packets to an address: whether they leave this host at all."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

_GET_ROUTE, _ERROR = 26, 2  # RTM_GETROUTE, NLMSG_ERROR
_REQUEST = 1
_DESTINATION = 1  # RTA_DST
_UNICAST = 1  # RTN_UNICAST; others are local, broadcast, anycast, multicast, …
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=8BI")
_NOWHERE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.EOPNOTSUPP))


class Routes:
    """
    Asks the kernel's routing table, 20 us a question (rtnetlink(7)); needs no privilege.

    Binding a socket to the address would tell as well, unless net.ipv4.ip_nonlocal_bind is set.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(1.0)  # the kernel answers before send returns

    def close(self) -> None:
        self._socket.close()

    def own(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether this host would keep what is sent there, or give it to all its neighbours."""
        packed = address.packed
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        body += struct.pack("=HH", 4 + len(packed), _DESTINATION) + packed
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST, 0, 0) + body)
        answer = self._socket.recv(8192)
        if _HEADER.unpack_from(answer)[1] == _ERROR:
            number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
            if number in _NOWHERE:
                return False  # nor can it be connected to
            raise OSError(number, os.strerror(number))
        return bool(answer[_HEADER.size + 7] != _UNICAST)
