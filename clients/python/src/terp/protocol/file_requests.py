"""Requests about files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from terp.protocol.request import EVENTS, Repeat, Request, encoded, sandbox_path, with_query


def read_content(sandbox_id: str, path: str) -> Request:
    target = with_query(sandbox_path(sandbox_id, "files/content"), {"path": path})
    return Request("GET", target, headers={"Accept": "*/*"}, repeat=Repeat.IF_LOST)


def write_content(sandbox_id: str, path: str, *, mode: int, repeatable: bool) -> Request:
    """*repeatable*: the content is at hand a second time."""
    target = with_query(sandbox_path(sandbox_id, "files/content"), {"path": path, "mode": str(mode)})
    headers = {"Content-Type": "application/octet-stream"}
    return Request("PUT", target, headers=headers, repeat=Repeat.IF_LOST if repeatable else Repeat.IF_UNSENT)


def list_files(sandbox_id: str, path: str) -> Request:
    return Request("GET", with_query(sandbox_path(sandbox_id, "files"), {"path": path}), repeat=Repeat.IF_LOST)


def stat_file(sandbox_id: str, path: str) -> Request:
    return Request("GET", with_query(sandbox_path(sandbox_id, "files/stat"), {"path": path}), repeat=Repeat.IF_LOST)


def make_directory(sandbox_id: str, path: str, *, parents: bool) -> Request:
    repeat = Repeat.IF_LOST if parents else Repeat.IF_UNSENT  # without parents, an existing one is an error
    return Request("POST", sandbox_path(sandbox_id, "files/mkdir"), {"path": path, "parents": parents}, repeat=repeat)


def move_file(sandbox_id: str, source: str, destination: str) -> Request:
    return Request("POST", sandbox_path(sandbox_id, "files/move"), {"source": source, "destination": destination})


def remove_file(sandbox_id: str, path: str) -> Request:
    # Not repeated when the reply is lost: the second answer would be that there is no such file.
    return Request("DELETE", with_query(sandbox_path(sandbox_id, "files"), {"path": path}))


def write_batch(sandbox_id: str, files: Mapping[str, bytes], *, mode: int) -> Request:
    rows = [{"path": path, "content": encoded(content), "mode": mode} for path, content in files.items()]
    return Request("POST", sandbox_path(sandbox_id, "files/batch"), {"files": rows}, repeat=Repeat.IF_LOST)


# ---- addresses, changes, directories -------------------------------------------------------------


def presign(sandbox_id: str, path: str, *, direction: Literal["download", "upload"], expires_in: int) -> Request:
    body = {"path": path, "expires_in": expires_in}
    return Request("POST", sandbox_path(sandbox_id, f"files/presign-{direction}"), body, repeat=Repeat.IF_LOST)


def watch(sandbox_id: str, path: str, *, recursive: bool) -> Request:
    query = {"path": path, "recursive": "true" if recursive else "false"}
    target = with_query(sandbox_path(sandbox_id, "files/watch"), query)
    return Request("GET", target, headers=EVENTS, repeat=Repeat.IF_LOST)


def read_archive(sandbox_id: str, path: str) -> Request:
    target = with_query(sandbox_path(sandbox_id, "files/archive"), {"path": path})
    return Request("GET", target, headers={"Accept": "*/*"}, repeat=Repeat.IF_LOST)


def write_archive(sandbox_id: str, path: str) -> Request:
    target = with_query(sandbox_path(sandbox_id, "files/archive"), {"path": path})
    return Request("PUT", target, headers={"Content-Type": "application/x-tar"})
