"""
Every request of the API, built as a value.

A request carries its own answer to "may it be sent twice?", so that the retry rule needs to know no endpoint.
"""

from __future__ import annotations

import base64
import enum
import json
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from terp.errors import InvalidRequest

PAGE_SIZE = 200  # the server's cap


class Repeat(enum.Enum):
    """When a request may be sent again without asking the user."""

    IF_UNSENT = enum.auto()  # it acts anew each time
    IF_LOST = enum.auto()  # doing it twice is doing it once
    IF_FULL_OR_LOST = enum.auto()  # the same, and waiting for capacity makes sense: create


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


def create(
    *,
    template: str,
    size: str,
    network: str,
    timeout: int,
    on_timeout: str,
    env: Mapping[str, str],
    metadata: Mapping[str, str],
) -> Request:
    """Build it once per wish: the Idempotency-Key made here is what keeps a repeated create from making two."""
    body = {
        "template": template,
        "size": size,
        "network": network,
        "timeout_seconds": timeout,
        "on_timeout": on_timeout,
        "env": dict(env),
        "metadata": dict(metadata),
    }
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    return Request("POST", "/v1/sandboxes", body, headers, Repeat.IF_FULL_OR_LOST)


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
    return Request("POST", _sandbox(sandbox_id, "exec"), body, {"Accept": "text/event-stream, application/json"})


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
    try:
        path = f"/v1/sandboxes/{quote(sandbox_id, safe='')}"
    except UnicodeEncodeError as error:
        raise InvalidRequest("The sandbox id holds half of a surrogate pair") from error
    if sandbox_id in ("", ".", ".."):  # a URL parser would take them for another address
        raise InvalidRequest(f"A sandbox id looks like sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB, not: {sandbox_id!r}")
    return f"{path}/{rest}" if rest else path


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
