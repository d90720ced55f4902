"""Replies about commands, terminals and variables."""

from __future__ import annotations

from typing import TypeVar

from terp import models
from terp.protocol.reading import Json, misshapen, names, optional, time

_Info = TypeVar("_Info", models.CommandInfo, models.PtyInfo)


def read_command(body: Json) -> models.CommandInfo:
    return _info(models.CommandInfo, body, "a command")


def read_commands(body: Json) -> list[models.CommandInfo]:
    return [read_command(row) for row in _rows(body, "commands")]


def read_pty(body: Json) -> models.PtyInfo:
    return _info(models.PtyInfo, body, "a terminal")


def read_ptys(body: Json) -> list[models.PtyInfo]:
    return [read_pty(row) for row in _rows(body, "ptys")]


def read_log(body: Json, *, offset: int) -> models.LogPage:
    """*offset* is what was asked for."""
    try:
        content = str(body["content"])
        begin = int(body.get("offset", offset))
        return models.LogPage(
            content=content,
            offset=begin,
            size=int(body["size"]),
            next_offset=int(body.get("next_offset", begin + len(content.encode(errors="replace")))),
            truncated=bool(body.get("truncated")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a log", error) from error


def read_typed(body: Json) -> int:
    """Return how many bytes the terminal has accepted from the start."""
    try:
        return int(body["offset"])
    except (KeyError, TypeError, ValueError) as error:
        raise misshapen("a terminal's input", error) from error


def read_env(body: Json) -> tuple[str, ...]:
    try:
        return names(body["names"])
    except (KeyError, TypeError) as error:
        raise misshapen("variables", error) from error


def _rows(body: Json, name: str) -> list[Json]:
    rows = body.get(name)
    if not isinstance(rows, list):
        raise misshapen(name, "no list")
    return rows


def _info(kind: type[_Info], body: Json, what: str) -> _Info:
    try:
        return kind(
            id=str(body["id"]),
            command=str(body.get("command") or ""),
            pid=optional(int, body.get("pid")),
            status=str(body.get("status") or "killed"),
            exit_code=optional(int, body.get("exit_code")),
            started_at=optional(time, body.get("started_at")),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen(what, error) from error
