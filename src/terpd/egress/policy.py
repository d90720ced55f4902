"""
Whether a connection may leave, by what it asked for. Pure; the address is looked at later (`addresses`).

    open        any TCP port, of names and of addresses
    restricted  TLS on port 443 to a listed name or one below it, also by CONNECT; HTTP on port 80 only to names
                that their list marks as `http://name`, as it does the hosts that a template's apt uses
    report_only as restricted, but what that blocks passes, and the record says so
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from terpd.model.names import NameInvalid, covered, normalise, parse_entry
from terpd.model.network import Decision, NetworkPolicy, Protocol, Reason

_HTTPS = 443
_HTTP = 80


@dataclass(frozen=True, slots=True)
class Allowed:
    """A list of domains, parsed once: names in the one form, and those among them that speak plain HTTP, too."""

    names: Collection[str]
    plain_http: Collection[str]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """Raises NameInvalid."""
        parsed = [parse_entry(entry) for entry in entries]
        return cls(frozenset(name for name, _ in parsed), frozenset(name for name, plain in parsed if plain))

    def with_package_hosts(self, hosts: Iterable[str]) -> Allowed:
        """This list and hosts over HTTP and HTTPS. What is no name, as a mirror's address, cannot be allowed."""
        names = set()
        for host in hosts:
            with suppress(NameInvalid):
                names.add(normalise(host))
        return Allowed(frozenset((*self.names, *names)), frozenset((*self.plain_http, *names)))


def decide(
    policy: NetworkPolicy, allowed: Allowed, protocol: Protocol, name: str | None, port: int
) -> tuple[Decision, Reason]:
    """
    Args:
        allowed: The policy's own list or, when it has none, the default one.
        name: In the one form (`names`); None when there was none, or it was an address.
        port: That is to be reached; of no meaning for DNS.
    """
    if policy.open:
        return Decision.ALLOWED, Reason.OPEN_MODE
    objection = _objection(allowed, protocol, name, port)
    if objection is None:
        return Decision.ALLOWED, Reason.ALLOWED_NAME
    return Decision.REPORTED if policy.report_only else Decision.BLOCKED, objection


def _objection(allowed: Allowed, protocol: Protocol, name: str | None, port: int) -> Reason | None:
    if protocol is Protocol.TCP:
        return Reason.PROTOCOL_NOT_ALLOWED
    if name is None:
        return Reason.NO_NAME
    if not covered(name, allowed.names):
        return Reason.NAME_NOT_ALLOWED
    match protocol:
        case Protocol.TLS | Protocol.CONNECT if port != _HTTPS:
            return Reason.PORT_NOT_ALLOWED
        case Protocol.HTTP if port != _HTTP or not covered(name, allowed.plain_http):
            return Reason.PORT_NOT_ALLOWED
    return None
