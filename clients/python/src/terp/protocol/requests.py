"""
Every request of the API, built as a value.

A request carries its own answer to "may it be sent twice?", so that the retry rule needs to know no endpoint.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import json
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from terp.errors import InvalidRequest
from terp.models import Secret

_EVENTS = {"Accept": "text/event-stream, application/json"}
PAGE_SIZE = 200  # the server's cap for sandboxes
DEFAULT_DOMAINS = "default"
PREVIEW_TOKEN = "terp_preview_token"  # noqa: S105 - the name of a query field
DEFAULT_TEMPLATE = "python-3.12"


class Repeat(enum.Enum):
    """
    When a request may be sent again without asking the user.

    When the server is full, any may: nothing was created or changed.
    """

    IF_UNSENT = enum.auto()  # it acts anew each time
    IF_LOST = enum.auto()  # doing it twice is doing it once
    IF_LOST_OR_SILENT = enum.auto()  # the same, and a wish unheard is worth asking twice: create


@dataclass(frozen=True)
class Request:
    """`target` is path and query, percent-encoded. `body` goes out as JSON."""

    method: str
    target: str
    body: Mapping[str, object] | None = field(default=None, repr=False)  # may hold secrets
    headers: Mapping[str, str] = field(default_factory=dict)
    repeat: Repeat = Repeat.IF_UNSENT

    @property
    def content(self) -> bytes | None:
        """The body in ASCII: the escapes let any Python string through, for the server to judge."""
        return None if self.body is None else json.dumps(self.body).encode()


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


def create(*, template: str | None, snapshot: str | None, size: str | None, life: Life, reach: Reach) -> Request:
    """
    Build it once per wish: the Idempotency-Key made here is what keeps a repeated create from making two.

    Raises:
        InvalidRequest: A snapshot is given, and with it what it brings along.
    """
    body = life.body | reach.body
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
    return Request("GET", _sandbox(sandbox_id), repeat=Repeat.IF_LOST)


def list_page(*, status: str | None, metadata: Mapping[str, str], cursor: str | None) -> Request:
    query = {"limit": str(PAGE_SIZE)}
    if status is not None:
        query["status"] = status
    query.update({f"metadata[{key}]": value for key, value in metadata.items()})
    if cursor is not None:
        query["cursor"] = cursor
    return Request("GET", _with_query("/v1/sandboxes", query), repeat=Repeat.IF_LOST)


def limits() -> Request:
    return Request("GET", "/v1/sandboxes/limits", repeat=Repeat.IF_LOST)


def terminate(sandbox_id: str) -> Request:
    return Request("DELETE", _sandbox(sandbox_id), repeat=Repeat.IF_LOST)


def set_timeout(sandbox_id: str, seconds: int) -> Request:
    return Request("POST", _sandbox(sandbox_id, "timeout"), {"timeout_seconds": seconds}, repeat=Repeat.IF_LOST)


def pause(sandbox_id: str) -> Request:
    return Request("POST", _sandbox(sandbox_id, "pause"))


def resume(sandbox_id: str) -> Request:
    return Request("POST", _sandbox(sandbox_id, "resume"))


def fork(sandbox_id: str, *, count: int, life: Life) -> Request:
    return Request("POST", _sandbox(sandbox_id, "fork"), {"count": count, **life.body})


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
    return Request("PATCH", _sandbox(sandbox_id, "network"), body, repeat=Repeat.IF_LOST)


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
    return Request("GET", _with_query(_sandbox(sandbox_id, "egress"), query), repeat=Repeat.IF_LOST)


def host(sandbox_id: str, port: int) -> Request:
    return Request("GET", _with_query(_sandbox(sandbox_id, "host"), {"port": str(port)}), repeat=Repeat.IF_LOST)


def preview_url(base_url: str, host: str, token: str | None) -> str:
    """Previews are served where the API is, under other host names."""
    server = urlsplit(base_url)
    port = "" if server.port is None else f":{server.port}"
    query = "" if token is None else "?" + urlencode({PREVIEW_TOKEN: token})
    return f"{server.scheme}://{host}{port}/{query}"


# ---- snapshots and receipts ----------------------------------------------------------------------


def take_snapshot(sandbox_id: str, *, name: str | None) -> Request:
    return Request("POST", _sandbox(sandbox_id, "snapshots"), {} if name is None else {"name": name})


def list_snapshots() -> Request:
    return Request("GET", "/v1/sandboxes/snapshots", repeat=Repeat.IF_LOST)


def get_snapshot(snapshot_id: str) -> Request:
    return Request("GET", _snapshot(snapshot_id), repeat=Repeat.IF_LOST)


def delete_snapshot(snapshot_id: str) -> Request:
    return Request("DELETE", _snapshot(snapshot_id), repeat=Repeat.IF_LOST)


def deletion_receipts(*, subject: str | None, limit: int) -> Request:
    query = {"limit": str(limit)} if subject is None else {"subject": subject, "limit": str(limit)}
    return Request("GET", _with_query("/v1/deletion-receipts", query), repeat=Repeat.IF_LOST)


# ---- commands ------------------------------------------------------------------------------------


def exec_stream(
    sandbox_id: str,
    command: str | Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    timeout: int,
    stdin: str | bytes | None,
) -> Request:
    """A sequence of arguments is quoted for the shell, so that each arrives as it is."""
    body: dict[str, object] = {
        "command": command if isinstance(command, str) else shlex.join(command),
        "cwd": cwd,
        "env": dict(env),
        "timeout_seconds": timeout,
        "stream": True,
    }
    if stdin is not None:
        body["stdin"] = stdin if isinstance(stdin, str) else _text(stdin)
    return Request("POST", _sandbox(sandbox_id, "exec"), body, _EVENTS)


def attach(sandbox_id: str, command_id: str, *, offset: int) -> Request:
    path = _sandbox(sandbox_id, f"exec/{_segment(command_id, 'command', 'cmd')}")
    return Request("GET", _with_query(path, {"offset": str(offset)}), headers=_EVENTS, repeat=Repeat.IF_LOST)


# ---- files ---------------------------------------------------------------------------------------


def read_content(sandbox_id: str, path: str) -> Request:
    target = _with_query(_sandbox(sandbox_id, "files/content"), {"path": path})
    return Request("GET", target, headers={"Accept": "*/*"}, repeat=Repeat.IF_LOST)


def write_content(sandbox_id: str, path: str, *, mode: int, repeatable: bool) -> Request:
    """*repeatable*: the content is at hand a second time."""
    target = _with_query(_sandbox(sandbox_id, "files/content"), {"path": path, "mode": str(mode)})
    headers = {"Content-Type": "application/octet-stream"}
    return Request("PUT", target, headers=headers, repeat=Repeat.IF_LOST if repeatable else Repeat.IF_UNSENT)


def list_files(sandbox_id: str, path: str) -> Request:
    return Request("GET", _with_query(_sandbox(sandbox_id, "files"), {"path": path}), repeat=Repeat.IF_LOST)


def stat_file(sandbox_id: str, path: str) -> Request:
    return Request("GET", _with_query(_sandbox(sandbox_id, "files/stat"), {"path": path}), repeat=Repeat.IF_LOST)


def make_directory(sandbox_id: str, path: str, *, parents: bool) -> Request:
    repeat = Repeat.IF_LOST if parents else Repeat.IF_UNSENT  # without parents, an existing one is an error
    return Request("POST", _sandbox(sandbox_id, "files/mkdir"), {"path": path, "parents": parents}, repeat=repeat)


def move_file(sandbox_id: str, source: str, destination: str) -> Request:
    return Request("POST", _sandbox(sandbox_id, "files/move"), {"source": source, "destination": destination})


def remove_file(sandbox_id: str, path: str) -> Request:
    # Not repeated when the reply is lost: the second answer would be that there is no such file.
    return Request("DELETE", _with_query(_sandbox(sandbox_id, "files"), {"path": path}))


def write_batch(sandbox_id: str, files: Mapping[str, bytes], *, mode: int) -> Request:
    rows = [{"path": path, "content": _base64(content), "mode": mode} for path, content in files.items()]
    return Request("POST", _sandbox(sandbox_id, "files/batch"), {"files": rows}, repeat=Repeat.IF_LOST)


def _sandbox(sandbox_id: str, rest: str = "") -> str:
    path = f"/v1/sandboxes/{_segment(sandbox_id, 'sandbox', 'sbx')}"
    return f"{path}/{rest}" if rest else path


def _snapshot(snapshot_id: str) -> str:
    return f"/v1/sandboxes/snapshots/{_segment(snapshot_id, 'snapshot', 'snap')}"


def _segment(text: str, what: str, prefix: str) -> str:
    """Return an id as a part of a path."""
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The {what} id holds half of a surrogate pair") from error
    if text in ("", ".", ".."):  # a URL parser would take them for another address
        raise InvalidRequest(f"A {what} id looks like {prefix}_01J8ZQ4T9M5V3K7C2N6R1W0XYB, not: {text!r}")
    return quoted


def _with_query(path: str, query: Mapping[str, str]) -> str:
    try:
        return f"{path}?{urlencode(query, quote_via=quote, safe='/')}"
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{' and '.join(query)} must be valid Unicode; one holds half a surrogate pair") from error


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _text(stdin: bytes) -> str:
    try:
        return stdin.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "stdin must be UTF-8. For other bytes write a file, and redirect it: command < /tmp/input"
        ) from error
