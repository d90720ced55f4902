"""A namespace's links: the TAP that is the guest's cable, loopback, and the settings of the kernel's stack."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path

from terpd.egress.netd import netlink
from terpd.model.network import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, PREFIX_LENGTH

TAP_NAME = "tap0"

_TUNSETIFF, _TUNSETPERSIST, _TUNGETIFF, _TUNGETDEVNETNS = 0x400454CA, 0x400454CB, 0x800454D2, 0x54E3  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")

_SYSCTLS = Path("/proc/sys/net")
# A new namespace inherits these from the host's, where anything may be set (Docker forwards, Kubernetes routes
# localnet). `all` and the TAP's own value are combined, some by "or" and some by "max", so both are written.
_INTERFACE_SETTINGS = {
    "accept_local": 0,
    "accept_redirects": 0,
    "accept_source_route": 0,
    "arp_accept": 0,
    "arp_announce": 2,  # ask for the guest from our own address only, although every address is local here
    "arp_ignore": 1,  # answer for our own address only, likewise
    "bootp_relay": 0,
    "forwarding": 0,
    "log_martians": 0,  # a guest must not write to the host's kernel log
    "proxy_arp": 0,
    "route_localnet": 0,
    "rp_filter": 1,
    "send_redirects": 0,
}


def open_tap() -> int:
    """
    Make the TAP in the calling thread's namespace, down, and return its descriptor.

    It is persistent, so it goes with its namespace, in the kernel's own time; else the one who closes the last
    descriptor waits 28 ms for it.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(TAP_NAME.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except BaseException:
        os.close(fd)
        raise
    return fd


def namespace_of(tap: int) -> int:
    """
    A new descriptor of the namespace that a TAP is in.

    Raises:
        ValueError: It is no TAP of ours.
    """
    try:
        name, flags = _IFREQ.unpack(fcntl.ioctl(tap, _TUNGETIFF, bytes(_IFREQ.size)))
    except OSError as error:
        raise ValueError("the descriptor is no TAP") from error
    if name.rstrip(b"\0") != TAP_NAME.encode() or not flags & _IFF_TAP:
        raise ValueError("the descriptor is no TAP of a sandbox")
    return fcntl.ioctl(tap, _TUNGETDEVNETNS)


def prepare_stack() -> None:
    """Settings that a TAP takes from its namespace when it is made: no IPv6 at all."""
    for scope in ("all", "default"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            _set(f"ipv6/conf/{scope}/disable_ipv6", 1)


def bring_up() -> None:
    """Configure TAP and loopback, and bring them up. The rules must be there already. May be repeated."""
    for scope in ("all", TAP_NAME):
        for name, value in _INTERFACE_SETTINGS.items():
            _set(f"ipv4/conf/{scope}/{name}", value)
    # The kernel's limits on ICMP are shared by all namespaces on older kernels; ours is in the rules instead.
    _set("ipv4/icmp_ratemask", 0)
    loopback, tap = socket.if_nametoindex("lo"), socket.if_nametoindex(TAP_NAME)
    netlink.apply(
        [
            netlink.link_up(loopback),
            netlink.any_ip(loopback),
            netlink.link_up(tap, GATEWAY_MAC),
            netlink.address(tap, GATEWAY_ADDRESS, PREFIX_LENGTH),
            netlink.neighbour(tap, GUEST_ADDRESS, GUEST_MAC),
        ]
    )


def _set(name: str, value: int) -> None:
    fd = os.open(_SYSCTLS / name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d\n" % value)
    finally:
        os.close(fd)
