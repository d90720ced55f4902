"""Tools for files. For `tools`, which says what they take."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Generator, Mapping
from typing import Any

from terp.errors import InvalidRequest
from terp.integrations.shown import Output, output

MAX_READ_BYTES = 256 * 1024
MAX_ENTRIES = 500


def write_file(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    content = given["content"].encode()
    if given["encoding"] == "base64":
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise InvalidRequest("content is not valid base64") from error
    yield sandbox.files.write(given["path"], content)
    return output({"path": given["path"], "bytes_written": len(content)})


def read_file(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    whole: bytes = yield sandbox.files.read_bytes(given["path"])
    offset = given["offset"]
    piece = whole[offset : offset + given["limit"]]
    end = offset + len(piece)
    encoding = "utf-8"
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        # A character that the limit cut in two is left for the next read; anything else is no text.
        if end < len(whole) and error.reason == "unexpected end of data" and error.start:
            text, end = piece[: error.start].decode(), offset + error.start
        else:
            text, encoding = base64.b64encode(piece).decode(), "base64"
    return output(
        {
            "path": given["path"],
            "encoding": encoding,
            "content": text,
            "size": len(whole),
            "next_offset": end if end < len(whole) else None,
        }
    )


def list_files(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    found = sorted((yield sandbox.files.list(given["path"])), key=lambda entry: str(entry.name))
    entries = [
        {"name": each.name, "is_dir": each.is_dir, "size": each.size, "modified_at": each.modified_at.isoformat()}
        for each in found[:MAX_ENTRIES]
    ]
    return output({"path": given["path"], "entries": entries, "more": len(found) - len(entries)})
