"""What nobody may reach, whatever a name resolves to."""

from __future__ import annotations

import ipaddress

import pytest

from terpd.egress.addresses import forbidden

PUBLIC = (
    "93.184.216.34",
    "8.8.8.8",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.0",
    "100.128.0.0",
    "172.32.0.1",
    "2606:2800::1",
)
FORBIDDEN = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1"),
    *("fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "fe80::1%eth0", "2606:2800::1%eth0"),
)


def _why(address: str, *, own: tuple[str, ...] = (), allowed: tuple[str, ...] = ()) -> str | None:
    return forbidden(
        ipaddress.ip_address(address),
        own=lambda each: str(each) in own,
        allowed=[ipaddress.ip_network(each) for each in allowed],
    )


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert _why(address) is None


@pytest.mark.parametrize("address", [f"::ffff:{address}" for address in PUBLIC if "." in address])
def test_mapped_public_addresses_are_what_they_map(address: str) -> None:
    assert _why(address) is None


@pytest.mark.parametrize("address", FORBIDDEN)
def test_all_others_may_not(address: str) -> None:
    assert _why(address)


def test_the_hosts_own_public_address_may_not() -> None:
    assert _why("93.184.216.34", own=("93.184.216.34",)) == "this host's own"


def test_the_operators_exceptions_hold_for_their_networks() -> None:
    assert _why("10.1.2.3", allowed=("10.1.0.0/16",)) is None
    assert _why("10.2.2.3", allowed=("10.1.0.0/16",)) == "private"
    assert _why("::ffff:10.1.2.3", allowed=("10.1.0.0/16",)) is None
    assert _why("fd00::5", allowed=("10.1.0.0/16", "fd00::/8")) is None


def test_only_an_exception_for_one_address_opens_the_hosts_own() -> None:
    """The network of an internal mirror may hold this host, with its API."""
    assert _why("10.1.2.3", own=("10.1.2.3",), allowed=("10.1.0.0/16",)) == "this host's own"
    assert _why("10.1.2.3", own=("10.1.2.3",), allowed=("10.1.0.0/16", "10.1.2.3/32")) is None
