"""A namespace's links: the TAP that is the guest's cable, loopback, and the settings of the kernel's stack."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from terpd.egress.netd import netlink
from terpd.model.network import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, PREFIX_LENGTH

TAP_NAME = "tap0"

_TUNSETIFF, _TUNSETPERSIST, _TUNGETIFF, _TUNGETDEVNETNS = 0x400454CA, 0x400454CB, 0x800454D2, 0x54E3  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")

_SYSCTLS = Path("/proc/sys/net")
# A new namespace inherits these from the host's, where anything may be set (Docker forwards, Kubernetes routes
# localnet). `all` and the TAP's own value are combined, some by "or" and some by "max", so both are set. The filter
# holds without them. Name, IPV4_DEVCONF_* of linux/ip.h, value:
_INTERFACE_SETTINGS = (
    ("forwarding", 1, 0),
    ("proxy_arp", 3, 0),
    ("accept_redirects", 4, 0),
    ("send_redirects", 6, 0),
    ("rp_filter", 8, 1),
    ("accept_source_route", 9, 0),
    ("bootp_relay", 10, 0),
    ("log_martians", 11, 0),  # a guest must not write to the host's kernel log
    ("arp_announce", 18, 2),  # ask for the guest from our own address only, although every address is local here
    ("arp_ignore", 19, 1),  # answer for our own address only, likewise
    ("arp_accept", 21, 0),
    ("accept_local", 23, 0),
    ("route_localnet", 26, 0),
)

_STACK_SETTINGS: Mapping[str, int | str] = {
    "icmp_ratemask": 0,  # the kernel's own limit is shared by all namespaces on older kernels; ours is in the rules
    # Smallest, first and largest buffer of a connection in bytes. A guest that does not read, or that the gateway does
    # not read, holds this much of the host's memory for each; on a cable of less than 1 ms it is 1 GB/s.
    "tcp_rmem": "4096 131072 1048576",
    "tcp_wmem": "4096 65536 1048576",
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
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        _set("ipv6/conf", {"all/disable_ipv6": 1, "default/disable_ipv6": 1})


def bring_up() -> None:
    """Configure TAP and loopback, and bring them up. The rules must be there already. May be repeated."""
    _set("ipv4/conf/all", {name: value for name, _, value in _INTERFACE_SETTINGS})
    _set("ipv4", _STACK_SETTINGS)
    loopback, tap = socket.if_nametoindex("lo"), socket.if_nametoindex(TAP_NAME)
    netlink.apply(
        [
            netlink.link_up(loopback),
            netlink.any_ip(loopback),
            netlink.link_up(tap, GATEWAY_MAC, {number: value for _, number, value in _INTERFACE_SETTINGS}),
            netlink.address(tap, GATEWAY_ADDRESS, PREFIX_LENGTH),
            netlink.neighbour(tap, GUEST_ADDRESS, GUEST_MAC),
        ]
    )


def _set(folder: str, values: Mapping[str, int | str]) -> None:
    # By the folder's descriptor: a new namespace has nothing cached, and most of the time goes into looking names up.
    directory = os.open(_SYSCTLS / folder, os.O_PATH | os.O_CLOEXEC)
    try:
        for name, value in values.items():
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
            try:
                os.write(fd, f"{value}\n".encode())
            finally:
                os.close(fd)
    finally:
        os.close(directory)
