"""Sandboxes on the wire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from terpd.api.respond import optional_timestamp, timestamp
from terpd.api.schemas.network import CredentialBody, network_object
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.create import CreateRequest
from terpd.control.policy import MAX_METADATA_PAIRS
from terpd.control.previews import Previews
from terpd.model.errors import InvalidRequest
from terpd.model.ids import SandboxId, parse_sandbox_id
from terpd.model.sandbox import Network, OnTimeout, Sandbox

StatusName = Literal["starting", "running", "pausing", "paused", "resuming", "terminated", "failed"]

ON_TIMEOUT = "At the lease's end: terminate it, or pause it"
AUTO_RESUME = "A command, a file call or a visit of a preview, while it is paused, resumes it first"

_METADATA_FILTER = "metadata["

_EXAMPLE: JsonDict = {
    "id": "sbx_01JG0000000000000000000000",
    "status": "running",
    "template": "python-3.12",
    "size": "small",
    "cpu": 1,
    "memory_mb": 1024,
    "network": "off",
    "region": "local",
    "node_id": "node-1",
    "created_at": "2026-01-01T00:00:00.000000Z",
    "started_at": "2026-01-01T00:00:00.060000Z",
    "expires_at": "2026-01-01T00:10:00.060000Z",
    "ended_at": None,
    "end_reason": None,
    "on_timeout": "pause",
    "auto_resume": True,
    "paused_expires_at": None,
    "stored_bytes": None,
    "snapshot": None,
    "allow_domains": None,
    "report_only": False,
    "secrets": [],
    "preview_auth": False,
    "preview_auth_token": None,
    "preview_host_base": "01jg0000000000000000000000.localhost",
    "metadata": {"user": "42"},
    "volume": None,
}


class CreateBody(RequestBody):
    """What this server does not offer is refused with `not_offered`, rather than ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"template": "python-3.12", "timeout_seconds": 600, "env": {"STAGE": "test"}}]}
    )

    template: str | None = Field(None, description="A template's name; see GET /v1/templates")
    snapshot: str | None = Field(
        None, description="Instead of a template: a snapshot's id. Template, size and network are the snapshot's"
    )
    size: str = Field("small", description="One of those in GET /v1/sandboxes/limits")
    network: Literal["off", "restricted", "open"] = Field(
        "off", description="`restricted`: HTTPS to a list of names; `open`: all public addresses, on record"
    )
    timeout_seconds: int = Field(600, description="The lease: 10 to the server's maximum, counted from RUNNING")
    on_timeout: Literal["kill", "pause"] = Field("kill", description=ON_TIMEOUT)
    auto_resume: bool = Field(False, description=AUTO_RESUME)
    preview_auth: bool = Field(False, description="Previews ask for `preview_auth_token`")
    env: dict[str, str] = Field({}, description="For all commands; kept in the guest's memory only. 32 KiB in all")
    metadata: dict[str, str] = Field({}, description="64 pairs; keys to 128 bytes, values to 1024")
    region: str | None = Field(None, description="The server's own, or left out")
    allow_domains: list[str] | None = Field(
        None, description="Replaces the default list of `restricted`; names below these are meant too"
    )
    report_only: bool | None = Field(None, description="Let through, and report, what would be blocked for its name")
    secrets: list[CredentialBody] = Field([], description="Used by the sandbox without holding them; 16 at most")
    volume: str | None = Field(
        None, description="Name or id of a volume, mounted at /persist; made with 10 GB when there is none of that name"
    )

    def to_request(self) -> CreateRequest:
        """Raises InvalidRequest for what a snapshot settles already."""
        if self.snapshot is not None:
            for name in ("template", "size", "network"):
                if name in self.model_fields_set and getattr(self, name) is not None:
                    raise InvalidRequest(f"{name} is the snapshot's: leave it out, or leave snapshot out")
        return CreateRequest(
            template=self.template,
            size=self.size,
            network=Network(self.network),
            allow_domains=self.allow_domains,
            report_only=self.report_only,
            secrets=[secret.to_request() for secret in self.secrets],
            timeout_s=self.timeout_seconds,
            on_timeout=OnTimeout(self.on_timeout),
            auto_resume=self.auto_resume,
            preview_auth=self.preview_auth,
            env=self.env,
            metadata=self.metadata,
            region=self.region,
            volume=self.volume,
            snapshot=self.snapshot,
        )


class TimeoutBody(RequestBody):
    timeout_seconds: int = Field(description="The lease's new length from now: 10 to the server's maximum")


class SandboxBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    status: StatusName
    template: str
    size: str
    cpu: float
    memory_mb: int
    network: str
    region: str
    node_id: str
    created_at: str
    started_at: str | None
    expires_at: str
    ended_at: str | None
    end_reason: Literal["user", "lease", "paused_too_long", "start_failed", "machine_lost", "shutdown"] | None
    on_timeout: Literal["kill", "pause"]
    auto_resume: bool
    paused_expires_at: str | None = Field(description="When a paused one is terminated; null for never")
    stored_bytes: int | None = Field(description="What a paused one takes of the server's disk, encrypted")
    snapshot: str | None = Field(description="What it was created from, if not from the template alone")
    allow_domains: list[str] | None = Field(description="In place of the default list of `restricted`")
    report_only: bool
    secrets: list[str] = Field(description="Names of the credentials that it uses")
    preview_auth: bool
    preview_auth_token: str | None = Field(description="For previews, in a query, a header or a cookie")
    preview_host_base: str = Field(description="A port's preview is at `<port>-` and this")
    metadata: dict[str, str]
    volume: str | None


class SandboxPage(AnswerBody):
    sandboxes: list[SandboxBody]
    next_cursor: str | None = Field(description="For the next page, with the same filters; null on the last one")


class LeaseBody(AnswerBody):
    expires_at: str


def sandbox_object(sandbox: Sandbox, previews: Previews) -> dict[str, Any]:
    return {
        "id": sandbox.id,
        "status": sandbox.status.value,
        "template": sandbox.template,
        "size": sandbox.size.name,
        "cpu": sandbox.size.vcpus,
        "memory_mb": sandbox.size.memory_mib,
        **network_object(sandbox),
        "region": sandbox.region,
        "node_id": sandbox.node_id,
        "created_at": timestamp(sandbox.created_at),
        "started_at": optional_timestamp(sandbox.started_at),
        "expires_at": timestamp(sandbox.expires_at),
        "ended_at": optional_timestamp(sandbox.ended_at),
        "end_reason": None if sandbox.end_reason is None else sandbox.end_reason.value,
        "on_timeout": sandbox.on_timeout.value,
        "auto_resume": sandbox.auto_resume,
        "paused_expires_at": optional_timestamp(sandbox.paused_expires_at),
        "stored_bytes": sandbox.stored_bytes,
        "snapshot": sandbox.snapshot,
        "secrets": [credential.name for credential in sandbox.credentials],
        "preview_auth": sandbox.preview_auth,
        "preview_auth_token": previews.token(sandbox),
        "preview_host_base": previews.host_base(sandbox.id),
        "metadata": sandbox.metadata,
        "volume": sandbox.volume,
    }


def metadata_filter(query: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs of `metadata[<key>]=<value>` in a decoded query."""
    wanted: dict[str, str] = {}
    for name, value in query:
        if not name.startswith(_METADATA_FILTER):
            continue
        key = name[len(_METADATA_FILTER) : -1]
        if not name.endswith("]") or not key:
            raise InvalidRequest("A filter by metadata must look like metadata[key]=value")
        if wanted.setdefault(key, value) != value:
            raise InvalidRequest("A filter by metadata must name each key once")
        if len(wanted) > MAX_METADATA_PAIRS:  # no sandbox has more, and each one is a condition of the query
            raise InvalidRequest(f"A filter by metadata may name {MAX_METADATA_PAIRS} keys at most")
    return wanted


def cursor_after(sandbox_id: SandboxId | None) -> str | None:
    """Opaque to clients, so that its meaning may change."""
    return None if sandbox_id is None else base64.urlsafe_b64encode(sandbox_id.encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> SandboxId:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    sandbox_id = parse_sandbox_id(text)
    if sandbox_id is None:
        raise InvalidRequest("cursor must be a next_cursor of this server")
    return sandbox_id
