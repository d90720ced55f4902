"""
What a sandbox may reach, what it tried to reach, and the credentials that are put in on its way out.

A sandbox with `Network.OFF` has no network device. All others reach the world through the gateway alone, which decides
each connection by its name and by the address that it resolved for that name itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from terpd.model.ids import SandboxId, TenantId

MAX_ALLOW_DOMAINS = 256
MAX_CREDENTIALS = 16
MAX_CREDENTIAL_BYTES = 8192
MAX_CREDENTIAL_HOSTS = 16
MAX_EGRESS_RECORDS = 50_000  # of one sandbox: a guest can cause thousands a second
MAX_NAME_CHARS = 253  # RFC 1035, without the trailing dot

GUEST_ADDRESS = "198.18.0.2"  # the same in every namespace, so that a clone needs no new one (RFC 2544's range)
GATEWAY_ADDRESS = "198.18.0.1"
PREFIX_LENGTH = 30
GUEST_MAC = "52:54:00:00:00:02"
GATEWAY_MAC = "02:fc:00:00:00:01"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """
    What may be reached, in the modes `restricted` and `open`.

    Attributes:
        open: All public addresses, any TCP port. False: HTTPS (port 443) to the allowed domains.
        allow_domains: Lower-case names; each stands for itself and all names below it. None: the template's default
            list. Without effect in open mode.
        report_only: Let through what would be blocked for its name, and say so in the record. What an address class
            forbids (private, link-local, …) stays blocked.
    """

    open: bool = False
    allow_domains: Sequence[str] | None = None
    report_only: bool = False


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A secret that never enters the sandbox: it holds *placeholder*, and the gateway puts *value* in its place in the
    header *header* of requests to *hosts*, and of no others.

    Attributes:
        header: Lower case, e.g. `authorization`.
        placeholder: What stands for the value in that header's value, e.g. `terp-secret-openai`.
        hosts: Exact lower-case names.
        value: Empty where it is not known: in records, and after a restart of the server. What needs it is then blocked
            (`CREDENTIAL_LOST`).
    """

    name: str
    hosts: Sequence[str]
    header: str
    placeholder: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """
    A machine's network: its policy, whose traffic it is, and credentials, which are kept in memory only.

    Attributes:
        package_hosts: Names that its template's package clients fetch from, set by the node. Allowed where the policy
            has no list of its own; also over plain HTTP, which apt uses.
    """

    tenant: TenantId
    policy: NetworkPolicy
    credentials: Sequence[Credential] = field(default=(), repr=False)
    package_hosts: Sequence[str] = ()


class Protocol(StrEnum):
    TLS = "tls"
    HTTP = "http"
    CONNECT = "connect"
    DNS = "dns"
    TCP = "tcp"  # neither of these, in open mode


class Decision(StrEnum):
    ALLOWED = "allowed"
    REPORTED = "reported"  # let through by report_only; `reason` says what would have blocked it
    BLOCKED = "blocked"
    FAILED = "failed"  # allowed, and could not be reached


class Reason(StrEnum):
    """Why a connection was let through or not. Stable: clients and reports name them."""

    ALLOWED_NAME = "allowed_name"
    OPEN_MODE = "open_mode"
    NAME_NOT_ALLOWED = "name_not_allowed"
    NO_NAME = "no_name"  # TLS without SNI, an IP literal, no Host
    NAME_INVALID = "name_invalid"
    NAME_MISMATCH = "name_mismatch"  # CONNECT names one host and the TLS within another, or two Host headers
    PORT_NOT_ALLOWED = "port_not_allowed"
    PROTOCOL_NOT_ALLOWED = "protocol_not_allowed"
    ADDRESS_FORBIDDEN = "address_forbidden"  # private, link-local, metadata, multicast, this host's own, …
    NAME_UNRESOLVED = "name_unresolved"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    MALFORMED = "malformed"
    TOO_MANY = "too_many"
    CREDENTIAL_LOST = "credential_lost"  # the server was restarted since, and credentials are in its memory only
    CERTIFICATE_REFUSED = "certificate_refused"  # by a program that does not trust its sandbox's CA, for a credential
    SERVER_UNVERIFIED = "server_unverified"  # a credential's host has a certificate that the gateway does not trust


@dataclass(frozen=True, slots=True)
class EgressRecord:
    """
    One connection, or one blocked DNS question, when it is over.

    Attributes:
        id: A ULID: ordered by time.
        name: As asked for, lower case, at most `MAX_NAME_CHARS`; None when there was none.
        address: That was dialled; None when none was.
        port: That the sandbox dialled.
        bytes_out, bytes_in: From and to the sandbox.
        credential: Name of the credential that was put in.
    """

    id: str
    sandbox_id: SandboxId
    tenant: TenantId
    at: dt.datetime
    protocol: Protocol
    name: str | None
    address: str | None
    port: int
    decision: Decision
    reason: Reason
    bytes_out: int = 0
    bytes_in: int = 0
    duration_ms: int = 0
    credential: str | None = None


@dataclass(frozen=True, slots=True)
class EgressFilter:
    """All that is given must match. `before` is the last id of the page before; newest first."""

    decision: Decision | None = None
    name: str | None = None
    since: dt.datetime | None = None
    before: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Traffic:
    """
    A sandbox's bytes since it was created, over pauses and restarts, whatever became of the records since.

    Attributes:
        connections: That were let through, those that failed included.
        blocked: Connections and DNS questions.
    """

    bytes_out: int
    bytes_in: int
    connections: int
    blocked: int


Meters = Mapping[SandboxId, Traffic]
