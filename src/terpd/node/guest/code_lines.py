"""What a guest says of a run, line by line, as events: each checked, and all together held to the caps."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any

from terpd.model.code import (
    MAX_CONTEXTS,
    MAX_RESULT_BYTES,
    MAX_RESULTS,
    MAX_RESULTS_BYTES,
    MAX_TEXT_BYTES,
    CodeContext,
    CodeDone,
    CodeError,
    CodeEvent,
    CodeResult,
    CodeText,
    Language,
    ResultType,
)
from terpd.model.guest import MAX_PATH_BYTES, OutputStream
from terpd.node.guest.faults import bad_reply

MAX_ERROR_CHARS = 16 * 1024  # of an error's value, and of its traceback
_MAX_NAME_CHARS = 256
_MAX_FIGURE = 2**53
_MAX_TIME_S = 253402300799.0  # the end of the year 9999

_CONTEXT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEXTS = ("text", "html", "markdown", "latex", "svg")
_FORMS = (*_TEXTS, "png", "json", "chart")
_TRUNCATED = frozenset({"stdout", "stderr", "results", *_FORMS})
# A figure is an image for those who look at the type, and has its chart beside it.
_RICHEST = (
    ("png", ResultType.IMAGE_PNG),
    ("chart", ResultType.CHART),
    ("html", ResultType.HTML),
    ("json", ResultType.JSON),
)


class RunLines:
    """
    Of one run, in the order in which they come.

    Attributes:
        last: Number of the last line taken; -1 before the first.
    """

    def __init__(self) -> None:
        self.last = -1
        self._room = dict.fromkeys(OutputStream, MAX_TEXT_BYTES)
        self._results = 0
        self._results_bytes = 0
        self._error: CodeError | None = None
        self._truncated: dict[str, None] = {}

    def take(self, line: Mapping[str, Any]) -> CodeEvent | None:
        """
        Return what *line* tells; None if it is nothing for the user. CodeDone is the last.

        Raises:
            GuestFault: It cannot be true.
        """
        number = line.get("n")
        if number is None:
            return None
        if type(number) is not int or number != self.last + 1:
            raise bad_reply("code", "a line out of turn")
        self.last = number
        if "stream" in line:
            return self._text(line)
        if "result" in line:
            return self._result(_object(line["result"]))
        if "error" in line:
            return self._raised(_object(line["error"]))
        if "done" in line:
            return self._done(_object(line["done"]))
        if "left_out" in line:
            self._truncated["results"] = None
        return None

    def _text(self, line: Mapping[str, Any]) -> CodeText | None:
        if line["stream"] not in list(OutputStream):
            raise bad_reply("code", "a stream of another name")
        stream = OutputStream(line["stream"])
        encoded = _text(line.get("text")).encode()
        if len(encoded) > self._room[stream]:
            self._truncated[stream] = None
            encoded = encoded[: self._room[stream]]
        self._room[stream] -= len(encoded)
        return CodeText(stream, encoded.decode(errors="ignore")) if encoded else None

    def _result(self, given: Mapping[str, Any]) -> CodeResult | None:
        if self._results >= MAX_RESULTS:
            self._truncated["results"] = None
            return None
        forms = {name: _text(given[name]) for name in _TEXTS if given.get(name) is not None}
        size = sum(len(form.encode()) for form in forms.values())
        png, tree, chart = given.get("png"), given.get("json"), given.get("chart")
        if png is not None:
            size += len(_base64(png))
        if tree is not None and not isinstance(tree, list):
            tree = _object(tree)
        if chart is not None:
            chart = _object(chart)
        size += sum(_json_size(value) for value in (tree, chart) if value is not None)
        present: dict[str, Any] = {**forms, "png": png, "json": tree, "chart": chart}
        fits = size <= MAX_RESULT_BYTES and self._results_bytes + size <= MAX_RESULTS_BYTES
        if not fits:
            self._truncated["results"] = None
            return None
        self._results += 1
        self._results_bytes += size
        kind = next((kind for name, kind in _RICHEST if present.get(name) is not None), ResultType.TEXT)
        return CodeResult(type=kind, is_main=given.get("is_main") is True, **present)

    def _raised(self, given: Mapping[str, Any]) -> CodeError | None:
        if self._error is not None:
            return None
        lines: list[str] = []
        room = MAX_ERROR_CHARS
        traceback = given.get("traceback")
        for part in traceback if isinstance(traceback, list) else ():
            line = _text(part)[:room]
            room -= len(line) + 1
            lines.append(line)
            if room <= 0:
                break
        name, value = _text(given.get("name")), _text(given.get("value"))
        self._error = CodeError(name[:_MAX_NAME_CHARS], value[:MAX_ERROR_CHARS], tuple(lines))
        return self._error

    def _done(self, given: Mapping[str, Any]) -> CodeDone:
        count = given.get("execution_count")
        truncated = given.get("truncated")
        for name in truncated if isinstance(truncated, list) else ():
            if isinstance(name, str) and name in _TRUNCATED:
                self._truncated[name] = None
        return CodeDone(
            context_id=_context_id(given.get("context_id")),
            execution_count=None if count is None else _figure(count),
            duration_ms=_figure(given.get("duration_ms")),
            error=self._error,
            interrupted=given.get("interrupted") is True,
            restarted=given.get("restarted") is True,
            truncated=tuple(self._truncated),
        )


def _json_size(value: object) -> int:
    """As the guest measures it."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def context(given: object) -> CodeContext:
    """Raises GuestFault: it cannot be true."""
    row = _object(given)
    if row.get("language") not in list(Language):
        raise bad_reply("code", "a context of another language")
    return CodeContext(
        id=_context_id(row.get("id")),
        language=Language(row["language"]),
        cwd=_text(row.get("cwd"))[:MAX_PATH_BYTES],
        created_at=_time(row.get("created_at")),
        last_used_at=_time(row.get("last_used_at")),
        executions=_figure(row.get("executions")),
        alive=row.get("alive") is True,
    )


def contexts(given: object) -> list[CodeContext]:
    if not isinstance(given, list) or len(given) > MAX_CONTEXTS:
        raise bad_reply("code", "no list of contexts")
    return [context(row) for row in given]


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise bad_reply("code", "no object")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise bad_reply("code", "no text")
    return value


def _figure(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_FIGURE:
        raise bad_reply("code", "no figure")
    return value


def _context_id(value: object) -> str:
    if not isinstance(value, str) or not _CONTEXT_ID.fullmatch(value):
        raise bad_reply("code", "no context id")
    return value


def _base64(value: object) -> str:
    try:
        base64.b64decode(text := _text(value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_reply("code", "an image that is not base64") from error
    return text


def _time(value: object) -> dt.datetime | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= _MAX_TIME_S:
        raise bad_reply("code", "no time")
    return dt.datetime.fromtimestamp(value, dt.UTC)
