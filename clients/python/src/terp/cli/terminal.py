"""What is written where: messages to stderr, data to stdout, a command's bytes as they are."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

from terp import ConnectionFailed, TerpError, Unauthenticated


def complain(message: str) -> None:
    """Write one line to stderr. It may quote a server or a guest: nothing in it steers the terminal."""
    print(f"terp: {printable(message)}", file=sys.stderr, flush=True)  # noqa: T201


def tell(line: str) -> None:
    """Write one line to stdout."""
    print(printable(line), flush=True)  # noqa: T201


def progress(message: str) -> None:
    """Tell who waits at a terminal what for; a script is told nothing."""
    if sys.stderr.isatty():
        complain(message)


def megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"


def write(stream: IO[str], data: bytes) -> None:
    """Pass a command's output on at once."""
    stream.buffer.write(data)  # type: ignore[attr-defined]  # sys.stdout and sys.stderr have one
    stream.flush()


def tell_json(found: object) -> None:
    """Write models, or what is made of them, as one JSON document to stdout, ASCII only."""
    print(json.dumps(_plain(found), indent=2), flush=True)  # noqa: T201


def tell_json_line(found: object) -> None:
    """Write one JSON document on one line, for streams of them."""
    print(json.dumps(_plain(found)), flush=True)  # noqa: T201


def tell_ids(ids: Sequence[str], *, as_json: bool) -> None:
    """Write ids or names, one a line or as one JSON list."""
    if as_json:
        tell_json(ids)
        return
    for each in ids:
        tell(each)


def tell_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write aligned columns, never cut: a cut id is of no use to the next command."""
    table = [tuple(head), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        tell("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def told(error: TerpError) -> str:
    """What happened and what to do, in one line; the request id is what the server's operator can search for."""
    todo = ""
    if isinstance(error, Unauthenticated) and error.status is not None:
        todo = ". Check TERP_API_KEY; on the server, `terpd key create` makes a new key"
    elif isinstance(error, ConnectionFailed) and not error.sent:
        todo = " Check TERP_BASE_URL"
    trace = f", request {error.request_id}" if error.request_id else ""
    return f"{error.detail}{todo} [{error.code}{trace}]"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, dt.date) else value
