"""Replies about files."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator

from terp import errors, models
from terp.protocol.reading import Json, error_by_code, misshapen, optional, time


def read_directory(body: Json, path: str) -> list[models.FileInfo]:
    """
    Raises:
        InvalidRequest: It is a file.
    """
    if not body.get("is_dir"):
        raise errors.InvalidRequest(f"It is a file, no directory: {path}")
    try:
        return [
            models.FileInfo(
                name=str(row["name"]),
                path=posixpath.join(path, str(row["name"])),
                is_dir=bool(row["is_dir"]),
                size=int(row["size"]),
                mode=int(row["mode"]),
                modified_at=time(row["modified_at"]),
                is_symlink=bool(row.get("is_symlink")),
            )
            for row in body["entries"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a directory", error) from error


def read_stat(body: Json, path: str) -> models.FileInfo | None:
    """Return None when there is no such file."""
    try:
        if not body["exists"]:
            return None
        return models.FileInfo(
            name=posixpath.basename(path.rstrip("/")),
            path=path,
            is_dir=bool(body["is_dir"]),
            size=int(body["size"]),
            mode=int(body["mode"]),
            modified_at=time(body["modified_at"]),
            is_symlink=bool(body.get("is_symlink")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a file", error) from error


def read_failures(body: Json) -> dict[str, errors.TerpError]:
    """Return what went wrong with each file that a batch did not write, by path."""
    try:
        return {
            str(row["path"]): error_by_code(
                str(row["error"]["code"]), str(row["error"].get("detail") or row["error"]["code"]), {}
            )
            for row in body["results"]
            if row.get("error")
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise misshapen("the results of a batch", error) from error


def read_presigned(body: Json) -> models.Presigned:
    try:
        return models.Presigned(
            url=str(body["url"]),
            method=str(body["method"]),
            path=str(body["path"]),
            expires_at=time(body["expires_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("an address", error) from error


def read_change(payload: bytes) -> Iterator[models.FileEvent]:
    """
    Yield what an event's *payload* says; what has no path and is no known sign says nothing.

    Raises:
        TerpError: The server reports that.
        BadReply: It makes no sense.
    """
    try:
        frame = json.loads(payload)
        kind = str(frame["kind"])
        if kind == "error":
            raise error_by_code(
                str(frame.get("code") or "internal"),
                str(frame.get("message") or frame.get("detail") or "The watch failed and the server gave no reason"),
                {},
            )
        if "path" in frame or kind in {"ready", "overflow"}:
            yield models.FileEvent(
                kind=kind,
                path=str(frame.get("path") or ""),
                is_dir=bool(frame.get("is_dir")),
                moved_from=optional(str, frame.get("moved_from")),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("a change", error) from error


def read_extracted(body: Json) -> tuple[int, int]:
    """Return how many files an archive made, and the bytes of their content."""
    try:
        return int(body["files"]), int(body["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("an archive", error) from error
