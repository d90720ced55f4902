"""
The packet filter of a namespace. Whatever a guest sends ends here or at one of three sockets.

    frame → netdev ingress   our MAC to theirs, plain IPv4 or an ARP question for the gateway; nothing else goes on
          → inet prerouting  its source is checked again; TCP is given to the gateway's socket, whatever its destination
          → inet input       TCP, DNS, ping of the gateway; other UDP is answered with ICMP, so that QUIC fails at once
            inet forward     nothing
            inet output      answers to the guest, and connections to it

The inet chains hold without the one at the device too, and both without the kernel's own checks of addresses.

TPROXY and a route that makes every address local need neither NAT nor connection tracking, and leave the original
destination in the accepted socket. The kernel drops loopback, broadcast and multicast destinations by itself as well.
"""

from __future__ import annotations

import ctypes
from functools import cache
from ipaddress import IPv4Interface

from terpd.egress.netd.links import TAP_NAME
from terpd.model.network import GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, PREFIX_LENGTH

TCP_PORT = 3000  # any, as long as no other socket is in the namespace
DNS_PORT = 53

_LIBRARY = "libnftables.so.1"
_PREFIX = IPv4Interface(f"{GATEWAY_ADDRESS}/{PREFIX_LENGTH}").network

# Added first, so that it is no error where there is none.
_REPLACE = "".join(f"{act} table {table} terp\n" for table in ("netdev", "inet") for act in ("add", "delete"))
RULES = f"""
table netdev terp {{
 chain ingress {{
  type filter hook ingress device "{TAP_NAME}" priority 0; policy drop;
  ether saddr != {GUEST_MAC} drop
  ether type arp arp operation request arp saddr ip {GUEST_ADDRESS} arp daddr ip {GATEWAY_ADDRESS} accept
  ether daddr != {GATEWAY_MAC} drop
  ip saddr != {GUEST_ADDRESS} drop
  ip hdrlength != 5 drop
  ip frag-off & 0x3fff != 0 drop
  ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, {_PREFIX[0]}, {GUEST_ADDRESS}, {_PREFIX[-1]}, 224.0.0.0/3 }} drop
  ip protocol tcp ip length >= 40 accept
  ip protocol {{ udp, icmp }} accept
 }}
}}

table inet terp {{
 chain prerouting {{
  type filter hook prerouting priority mangle; policy drop;
  meta nfproto != ipv4 drop
  ip saddr != {GUEST_ADDRESS} drop
  tcp dport != {DNS_PORT} tproxy ip to :{TCP_PORT} accept
  meta l4proto {{ tcp, udp, icmp }} accept
 }}
 chain input {{
  type filter hook input priority filter; policy drop;
  meta l4proto tcp accept
  udp dport {DNS_PORT} accept
  ip daddr {GATEWAY_ADDRESS} icmp type echo-request accept
  meta l4proto udp limit rate 200/second burst 100 packets reject with icmp type admin-prohibited
 }}
 chain forward {{
  type filter hook forward priority filter; policy drop;
 }}
 chain output {{
  type filter hook output priority filter; policy drop;
  meta nfproto != ipv4 drop
  ip daddr != {GUEST_ADDRESS} drop
  ip protocol tcp accept
  udp sport {DNS_PORT} accept
  icmp type {{ echo-reply, destination-unreachable }} accept
 }}
}}
"""


class RulesRefused(Exception):
    """The kernel or the library does not take them; the text says what to do."""


def apply_rules(*, replace: bool = False) -> None:
    """
    Put the rules into the calling thread's namespace, in one transaction: 1 ms.

    Args:
        replace: In place of those that are there. 10 ms more, since the kernel waits until nobody uses them.

    Raises:
        RulesRefused
    """
    # The library waits with select(2) and aborts at a descriptor above 1023: the helper never has that many.
    library = load_library()
    context = library.nft_ctx_new(0)  # it has a netlink socket, which belongs to the namespace
    if not context:
        raise RulesRefused("libnftables has no memory or no netlink socket")
    try:
        library.nft_ctx_buffer_error(context)
        if library.nft_run_cmd_from_buffer(context, ((_REPLACE if replace else "") + RULES).encode()) != 0:
            said = library.nft_ctx_get_error_buffer(context).decode(errors="replace").strip()
            raise RulesRefused(
                f"The kernel refuses the packet filter; load nft_tproxy, or boot a kernel with CONFIG_NFT_TPROXY, "
                f"CONFIG_NFT_REJECT and CONFIG_NF_TABLES_NETDEV: {said[:300]}"
            )
    finally:
        library.nft_ctx_free(context)


@cache
def load_library() -> ctypes.CDLL:
    """Raises RulesRefused."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise RulesRefused(f"{_LIBRARY} is missing: install nftables") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.restype = None
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
    return library
