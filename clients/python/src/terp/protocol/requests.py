"""Requests about sandboxes, their network, and what is saved of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from terp.errors import InvalidRequest
from terp.models import Secret
from terp.protocol.request import Repeat, Request, sandbox_path, segment, with_query

PAGE_SIZE = 200  # the server's cap for sandboxes
DEFAULT_DOMAINS = "default"
PREVIEW_TOKEN = "terp_preview_token"  # noqa: S105 - the name of a query field
DEFAULT_TEMPLATE = "python-3.12"


# ---- sandboxes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """How long a new sandbox lives and what it is told: the same for one that is created and one that is forked."""

    timeout: int
    on_timeout: str
    auto_resume: bool
    env: Mapping[str, str] = field(repr=False)
    metadata: Mapping[str, str]

    @property
    def body(self) -> dict[str, object]:
        return {
            "timeout_seconds": self.timeout,
            "on_timeout": self.on_timeout,
            "auto_resume": self.auto_resume,
            "env": dict(self.env),
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True)
class Reach:
    """What a new sandbox may reach, and who may reach it. What is None is left to the server, or to the snapshot."""

    mode: str | None
    allow_domains: Sequence[str] | None
    report_only: bool | None
    secrets: Sequence[Secret] = field(repr=False)
    preview_auth: bool

    @property
    def default_mode(self) -> str:
        """Who says what may be reached wants something to be reached."""
        return "off" if self.allow_domains is None and not self.secrets else "restricted"

    @property
    def body(self) -> dict[str, object]:
        body: dict[str, object] = {"preview_auth": self.preview_auth}
        if self.allow_domains is not None:
            body["allow_domains"] = _names(self.allow_domains)
        if self.report_only is not None:
            body["report_only"] = self.report_only
        if self.secrets:
            body["secrets"] = [_secret(secret) for secret in self.secrets]
        return body


def _secret(secret: Secret) -> dict[str, object]:
    hosts = [secret.hosts] if isinstance(secret.hosts, str) else list(secret.hosts)
    body: dict[str, object] = {
        "name": secret.name,
        "hosts": hosts,
        "value": secret.value,
        "header": secret.header,
    }
    if secret.placeholder is not None:
        body["placeholder"] = secret.placeholder
    if secret.env is not None:
        body["env"] = secret.env
    return body


def _names(domains: Sequence[str]) -> list[str]:
    if isinstance(domains, str):
        raise InvalidRequest(f"allow_domains is a list of names, like [{domains!r}]")
    return list(domains)


def create(
    *,
    template: str | None,
    snapshot: str | None,
    size: str | None,
    life: Life,
    reach: Reach,
    volume: str | None = None,
    region: str | None = None,
) -> Request:
    """
    Build it once per wish: the Idempotency-Key made here is what keeps a repeated create from making two.

    Raises:
        InvalidRequest: A snapshot is given, and with it what it brings along.
    """
    body = life.body | reach.body
    if volume is not None:
        body["volume"] = volume
    if region is not None:
        body["region"] = region
    if snapshot is None:
        mode = reach.mode or reach.default_mode
        body |= {"template": template or DEFAULT_TEMPLATE, "size": size or "small", "network": mode}
        if mode == "off":
            del body["preview_auth"]  # it has no previews
    elif template is None and size is None and reach.mode is None:
        body["snapshot"] = snapshot
    else:
        raise InvalidRequest("template, size and network come from the snapshot; give them or the snapshot")
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    return Request("POST", "/v1/sandboxes", body, headers, Repeat.IF_LOST_OR_SILENT)


def get(sandbox_id: str) -> Request:
    return Request("GET", sandbox_path(sandbox_id), repeat=Repeat.IF_LOST)


def list_page(*, status: str | None, metadata: Mapping[str, str], cursor: str | None) -> Request:
    query = {"limit": str(PAGE_SIZE)}
    if status is not None:
        query["status"] = status
    query.update({f"metadata[{key}]": value for key, value in metadata.items()})
    if cursor is not None:
        query["cursor"] = cursor
    return Request("GET", with_query("/v1/sandboxes", query), repeat=Repeat.IF_LOST)


def limits() -> Request:
    return Request("GET", "/v1/sandboxes/limits", repeat=Repeat.IF_LOST)


def terminate(sandbox_id: str) -> Request:
    return Request("DELETE", sandbox_path(sandbox_id), repeat=Repeat.IF_LOST)


def set_timeout(sandbox_id: str, seconds: int) -> Request:
    return Request("POST", sandbox_path(sandbox_id, "timeout"), {"timeout_seconds": seconds}, repeat=Repeat.IF_LOST)


def pause(sandbox_id: str) -> Request:
    return Request("POST", sandbox_path(sandbox_id, "pause"))


def resume(sandbox_id: str) -> Request:
    return Request("POST", sandbox_path(sandbox_id, "resume"))


def fork(sandbox_id: str, *, count: int, life: Life, include_secrets: bool) -> Request:
    body = {"count": count, **life.body, **_with_secrets(include=include_secrets)}
    return Request("POST", sandbox_path(sandbox_id, "fork"), body)


# ---- network -------------------------------------------------------------------------------------


def set_network(
    sandbox_id: str, *, mode: str | None, allow_domains: Sequence[str] | None, report_only: bool | None
) -> Request:
    """
    Raises:
        InvalidRequest: Nothing is to be changed, or the names are no list.
    """
    body: dict[str, object] = {}
    if mode is not None:
        body["network"] = mode
    if allow_domains is not None:
        body["allow_domains"] = None if allow_domains == DEFAULT_DOMAINS else _names(allow_domains)
    if report_only is not None:
        body["report_only"] = report_only
    if not body:
        raise InvalidRequest("Nothing to change: give a mode, allow_domains or report_only")
    return Request("PATCH", sandbox_path(sandbox_id, "network"), body, repeat=Repeat.IF_LOST)


def egress(
    sandbox_id: str,
    *,
    decision: str | None = None,
    name: str | None = None,
    since: dt.datetime | None = None,
    limit: int = PAGE_SIZE,
    cursor: str | None = None,
) -> Request:
    query = {"limit": str(limit)}
    if decision is not None:
        query["decision"] = decision
    if name is not None:
        query["name"] = name
    if since is not None:
        query["since"] = since.astimezone(dt.timezone.utc).isoformat()  # without a zone it is local, as everywhere
    if cursor is not None:
        query["cursor"] = cursor
    return Request("GET", with_query(sandbox_path(sandbox_id, "egress"), query), repeat=Repeat.IF_LOST)


def host(sandbox_id: str, port: int) -> Request:
    return Request("GET", with_query(sandbox_path(sandbox_id, "host"), {"port": str(port)}), repeat=Repeat.IF_LOST)


def preview_url(base_url: str, host: str, token: str | None) -> str:
    """Previews are served where the API is, under other host names."""
    server = urlsplit(base_url)
    port = "" if server.port is None else f":{server.port}"
    query = "" if token is None else "?" + urlencode({PREVIEW_TOKEN: token})
    return f"{server.scheme}://{host}{port}/{query}"


# ---- snapshots and receipts ----------------------------------------------------------------------


def take_snapshot(sandbox_id: str, *, name: str | None, include_secrets: bool) -> Request:
    body = ({} if name is None else {"name": name}) | _with_secrets(include=include_secrets)
    return Request("POST", sandbox_path(sandbox_id, "snapshots"), body)


def _with_secrets(*, include: bool) -> dict[str, object]:
    return {"include_secrets": True} if include else {}


def list_snapshots() -> Request:
    return Request("GET", "/v1/sandboxes/snapshots", repeat=Repeat.IF_LOST)


def get_snapshot(snapshot_id: str) -> Request:
    return Request("GET", snapshot_path(snapshot_id), repeat=Repeat.IF_LOST)


def delete_snapshot(snapshot_id: str) -> Request:
    return Request("DELETE", snapshot_path(snapshot_id), repeat=Repeat.IF_LOST)


def deletion_receipts(*, subject: str | None, limit: int) -> Request:
    query = {"limit": str(limit)} if subject is None else {"subject": subject, "limit": str(limit)}
    return Request("GET", with_query("/v1/deletion-receipts", query), repeat=Repeat.IF_LOST)


def snapshot_path(snapshot_id: str) -> str:
    return f"/v1/sandboxes/snapshots/{segment(snapshot_id, 'snapshot', 'snap')}"
