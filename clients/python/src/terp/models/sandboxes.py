"""Sandboxes, what they reach, and what is saved of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SandboxInfo:
    """
    A sandbox as the server last described it.

    Attributes:
        id: `sbx_` and 26 characters.
        status: `starting`, `running`, `pausing`, `paused`, `resuming`, `terminated` or `failed`; a newer server may
            know more.
        size: The size asked for; None when the server does not say.
        cpu: Virtual processors.
        memory_mb: Guest memory in MiB.
        network: `off`, `restricted` or `open`.
        on_timeout: What happens at `expires_at`: `kill` or `pause`.
        expires_at: End of the lease; stays readable when the sandbox is no more.
        end_reason: Why it is no more: `user`, `lease`, `paused_too_long`, `start_failed`, `machine_lost`, `shutdown`;
            None while it is.
        metadata: The caller's own labels.
        auto_resume: Whether a command or a file call wakes it while it is paused.
        snapshot: What it was created from, instead of a template's own start.
        paused_expires_at: When it is terminated if it stays paused; None for never, and unless it is paused.
        stored_bytes: What it takes of the server's disk while it is paused.
        allow_domains: What `restricted` may reach, with all names below these; None for the server's default list,
            see `Limits.default_egress_domains`.
        report_only: Whether what would be blocked for its name is let through and reported.
        secrets: Names of the `Secret`s that it uses.
        preview_auth: Whether its previews ask for `preview_auth_token`.
        volume: Name of the volume that it has at /persist.
    """

    id: str
    status: str
    template: str
    size: str | None
    network: str
    cpu: float
    memory_mb: int
    region: str
    created_at: dt.datetime
    expires_at: dt.datetime
    on_timeout: str
    end_reason: str | None
    metadata: Mapping[str, str]
    auto_resume: bool = False
    snapshot: str | None = None
    paused_expires_at: dt.datetime | None = None
    stored_bytes: int | None = None
    allow_domains: tuple[str, ...] | None = None
    report_only: bool = False
    secrets: tuple[str, ...] = ()
    preview_auth: bool = False
    preview_auth_token: str | None = field(default=None, repr=False)  # who has it may see the previews
    volume: str | None = None


@dataclass(frozen=True)
class Secret:
    """
    A credential that a sandbox uses and never holds.

        Secret("OPENAI_API_KEY", "api.openai.com", os.environ["OPENAI_API_KEY"])

    In the sandbox there is a placeholder, which is worth nothing: programs find it in the variable `env` and send it as
    they would send the value. On the way to `hosts`, and to no others, the server puts the value in its place.

    Attributes:
        name: Letters, digits, `_` and `-`. Connections that used the credential are recorded with it.
        hosts: One name, or several; names below them are not meant.
        value: In the server's memory only, and in no repr: after a restart of the server the sandbox can no longer use
            it, which its connections then say (`credential_lost`).
        header: The request header that carries it.
        placeholder: `terp-secret-` and the name in lower case if not given.
        env: The name in capitals, with `_` for `-`, if not given; empty for no variable.
    """

    name: str
    hosts: str | Sequence[str]
    value: str = field(repr=False)
    header: str = "authorization"
    placeholder: str | None = None
    env: str | None = None


@dataclass(frozen=True)
class Connection:
    """
    A connection that a sandbox made or was refused, or a name that it was refused the address of.

    Attributes:
        id: Those that ended later have a greater one.
        at: When it began.
        protocol: `tls`, `http`, `connect`, `dns` or `tcp`; a newer server may know more, as of all that follow.
        name: The host asked for; None when no name was.
        address: What the server dialled; None when it dialled nothing.
        decision: `allowed`, `reported` (let through by report_only), `blocked`, or `failed` (allowed and not reached).
        reason: Why, e.g. `allowed_name`, `name_not_allowed`, `address_forbidden`.
        bytes_out, bytes_in: From and to the sandbox.
        credential: Name of the `Secret` that was put in.
    """

    id: str
    at: dt.datetime
    protocol: str
    name: str | None
    address: str | None
    port: int
    decision: str
    reason: str
    bytes_out: int
    bytes_in: int
    duration_ms: int
    credential: str | None


@dataclass(frozen=True)
class Traffic:
    """
    All of a sandbox's traffic since it was created, over pauses.

    Attributes:
        bytes_out, bytes_in: From and to the sandbox.
        connections: That were let through, those that could not be reached included.
        blocked: Connections and questions for names.
    """

    bytes_out: int
    bytes_in: int
    connections: int
    blocked: int


@dataclass(frozen=True)
class Paused:
    """
    What a pause came to.

    Attributes:
        stored_bytes: What it takes of the server's disk, encrypted.
        dirty_bytes: Memory that differs from the template's.
        stopped_ms: From the stop of the sandbox's processors until all was read.
    """

    stored_bytes: int
    dirty_bytes: int
    stopped_ms: float


@dataclass(frozen=True)
class SnapshotInfo:
    """
    A named snapshot as the server last described it.

    Attributes:
        id: `snap_` and 26 characters.
        status: `capturing`, `ready` or `failed`.
        name: The caller's own; None without one. Several may have the same.
        source_sandbox_id: What it was taken of; that may be terminated.
        cpu, memory_mb, network: Of every sandbox that is created from it.
        stored_bytes: What it takes of the server's disk, with what it shares with others; None until it is ready.
        stopped_ms: How long the source stood still for it; None until it is ready.
        error: Why it failed.
    """

    id: str
    status: str
    name: str | None
    source_sandbox_id: str | None
    template: str
    cpu: float
    memory_mb: int
    network: str
    created_at: dt.datetime
    ready_at: dt.datetime | None
    stored_bytes: int | None
    stopped_ms: float | None
    error: str | None


@dataclass(frozen=True)
class DeletionReceipt:
    """
    That a key was destroyed, and with it everything that it had encrypted, wherever copies of that may lie.

    Attributes:
        subject: Id of the sandbox or snapshot that the key belonged to.
        what: What could be read with the key only, in words.
        key_id: Of the destroyed key.
        server_key_id: Of the server's own key, which the destroyed one was wrapped with.
    """

    subject: str
    what: str
    at: dt.datetime
    key_id: str
    server_key_id: str


@dataclass(frozen=True)
class SizeInfo:
    """A size that can be asked for: virtual processors, MiB of memory, and whether this key may have it."""

    name: str
    cpu: float
    memory_mb: int
    allowed: bool


@dataclass(frozen=True)
class Limits:
    """
    What this API key may have.

    Attributes:
        max_concurrent: Sandboxes that hold a machine at once; paused ones do not.
        max_timeout_seconds: Longest lease; None when the server did not say.
        max_snapshots: Paused sandboxes; None when the server did not say.
        max_named_snapshots: Named snapshots; None when the server did not say.
        max_fork: Children of one fork; None when the server did not say.
        default_egress_domains: What sandboxes with network `restricted` may reach unless they say otherwise.
    """

    plan: str
    max_concurrent: int
    sizes: tuple[SizeInfo, ...]
    max_timeout_seconds: int | None
    max_snapshots: int | None = None
    max_named_snapshots: int | None = None
    max_fork: int | None = None
    default_egress_domains: tuple[str, ...] = ()
