"""Files on the wire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from terpd.api.respond import timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.files import DEFAULT_MODE, Directory, FileToWrite, WriteOutcome
from terpd.model.guest import FileInfo


class WriteBody(RequestBody):
    path: str = Field(description="Absolute, below /workspace, /tmp or /persist; parents are made")
    content: str = Field(description="Base64; 16 MiB at most when decoded")
    mode: int = Field(DEFAULT_MODE, description="Permission bits as a decimal number: 420 is 0o644")

    def to_file(self) -> FileToWrite:
        try:
            content = base64.b64decode(self.content, validate=True)
        except (binascii.Error, ValueError):
            content = None
        return FileToWrite(self.path, content, self.mode)


class BatchBody(RequestBody):
    files: list[WriteBody] = Field(description="64 at most, and 24 MiB of JSON in all")


class MkdirBody(RequestBody):
    path: str
    parents: bool = Field(True, description="Make parents, and take an existing directory as success")


class MoveBody(RequestBody):
    source: str
    destination: str


class EntryBody(AnswerBody):
    name: str
    is_dir: bool
    is_symlink: bool
    size: int
    mode: int
    modified_at: str


class FileBody(AnswerBody):
    is_dir: Literal[False]
    content: str = Field(description="Base64")


class DirectoryBody(AnswerBody):
    is_dir: Literal[True]
    entries: list[EntryBody]


class StatBody(AnswerBody):
    path: str
    exists: bool
    is_dir: bool
    is_symlink: bool
    size: int
    mode: int | None
    modified_at: str | None


class RowError(AnswerBody):
    code: str
    detail: str


class RowBody(AnswerBody):
    path: str
    bytes_written: int | None
    error: RowError | None


class BatchResultBody(AnswerBody):
    results: list[RowBody]


class WrittenBody(AnswerBody):
    path: str
    size: int


class ExtractedBody(AnswerBody):
    files: int = Field(description="Entries made")
    bytes: int = Field(description="Of their content")


def read_object(found: bytes | Directory) -> dict[str, Any]:
    if isinstance(found, Directory):
        return {"is_dir": True, "entries": [_entry(info) for info in found.entries]}
    return {"is_dir": False, "content": base64.b64encode(found).decode("ascii")}


def stat_object(path: str, info: FileInfo | None) -> dict[str, Any]:
    if info is None:
        absent = {"is_dir": False, "is_symlink": False, "size": 0, "mode": None, "modified_at": None}
        return {"path": path, "exists": False, **absent}
    entry = _entry(info)
    del entry["name"]
    return {"path": path, "exists": True, **entry}


def batch_object(outcomes: Sequence[WriteOutcome]) -> dict[str, Any]:
    return {
        "results": [
            {
                "path": outcome.path,
                "bytes_written": outcome.size,
                "error": None
                if outcome.error is None
                else {"code": outcome.error.code, "detail": outcome.error.detail},
            }
            for outcome in outcomes
        ]
    }


def _entry(info: FileInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "is_dir": info.is_dir,
        "is_symlink": info.is_symlink,
        "size": info.size,
        "mode": info.mode & 0o7777,
        "modified_at": timestamp(info.modified_at),
    }
