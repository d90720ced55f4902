"""
What a run shows, from Jupyter messages to lines for the host: forms picked, sizes capped, colours taken out.

The caps are those of the host (`terpd.model.code`), which applies them again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_RESULTS = 64
MAX_RESULT_BYTES = 4 * 1024 * 1024  # of one result, as JSON
MAX_RESULTS_BYTES = 16 * 1024 * 1024  # of all results of one run, as JSON
MAX_TEXT_BYTES = 1024 * 1024  # of each stream
MAX_ERROR_CHARS = 16 * 1024  # of an error's value, and of its traceback
MAX_NAME_CHARS = 256
CHART = "application/vnd.terp.chart+json"

_FORMS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "application/json": "json",
    CHART: "chart",
}
_RICHEST = (("png", "image_png"), ("chart", "chart"), ("html", "html"), ("json", "json"))
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")

Line = dict[str, Any]


class Output:
    """
    Of one run. Messages in, lines out by *emit*.

    A display that is updated is shown as it first was and, once, as it was at the end of the run: what was sent cannot
    be taken back, and a progress bar is not a hundred results.
    """

    def __init__(self, emit: Callable[[Line], None]) -> None:
        self._emit = emit
        self._room = {"stdout": MAX_TEXT_BYTES, "stderr": MAX_TEXT_BYTES}
        self._results = 0
        self._results_bytes = 0
        self._updates: dict[str, Mapping[str, Any]] = {}
        self._truncated: dict[str, None] = {}
        self.failed = False

    def take(self, kind: str, content: Mapping[str, Any]) -> None:
        """A message of the kernel's iopub channel; kinds that show nothing are ignored."""
        if kind == "stream":
            self.text(str(content.get("name")), str(content.get("text", "")))
        elif kind in ("display_data", "execute_result"):
            self._result(content.get("data"), is_main=kind == "execute_result")
        elif kind == "update_display_data":
            name = str((content.get("transient") or {}).get("display_id"))
            if name in self._updates or len(self._updates) < MAX_RESULTS:
                self._updates[name] = content.get("data") or {}
        elif kind == "error":
            self.error(
                str(content.get("ename")),
                str(content.get("evalue")),
                [str(part) for part in content.get("traceback") or ()],
            )

    def text(self, stream: str, text: str) -> None:
        if stream not in self._room or not text:
            return
        encoded = text.encode("utf-8", "replace")
        room = self._room[stream]
        if len(encoded) > room:
            self._truncated[stream] = None
            encoded = encoded[:room]
        self._room[stream] -= len(encoded)
        if encoded:
            self._emit({"stream": stream, "text": encoded.decode("utf-8", "ignore")})

    def error(self, name: str, value: str, traceback: list[str]) -> None:
        """What the code raised, or what became of its kernel. One counts: the first."""
        if self.failed:
            return
        self.failed = True
        lines = clean("\n".join(traceback))[-MAX_ERROR_CHARS:].split("\n") if traceback else []
        self._emit(
            {
                "error": {
                    "name": clean(name)[:MAX_NAME_CHARS],
                    "value": clean(value)[:MAX_ERROR_CHARS],
                    "traceback": lines,
                }
            }
        )

    def finish(self) -> list[str]:
        """Show what was updated, and return what was truncated."""
        for data in self._updates.values():
            self._result(data, is_main=False)
        self._updates.clear()
        return list(self._truncated)

    def _result(self, data: object, *, is_main: bool) -> None:
        if not isinstance(data, Mapping):
            return
        if self._results >= MAX_RESULTS:
            self._truncated["results"] = None
            return
        forms = _forms(data)
        sizes = {name: len(_encode(value)) for name, value in forms.items()}
        while sum(sizes.values()) > MAX_RESULT_BYTES:
            largest = max(sizes, key=lambda name: sizes[name])
            self._truncated[largest] = None
            del forms[largest], sizes[largest]
            if largest == "text":  # the one form of which a part is worth something
                forms["text"] = str(data["text/plain"])[: MAX_RESULT_BYTES // 64]
                sizes["text"] = len(_encode(forms["text"]))
        if not forms:
            return
        if self._results_bytes + sum(sizes.values()) > MAX_RESULTS_BYTES:
            self._truncated["results"] = None
            return
        self._results += 1
        self._results_bytes += sum(sizes.values())
        kind = next((kind for name, kind in _RICHEST if name in forms), "text")
        self._emit({"result": {"type": kind, **forms, "is_main": is_main}})


def _forms(data: Mapping[str, Any]) -> dict[str, Any]:
    forms: dict[str, Any] = {}
    for mime, name in _FORMS.items():
        value = data.get(mime)
        if name in ("json", "chart"):
            if isinstance(value, (dict, list) if name == "json" else dict) and _encodable(value):
                forms[name] = value
        elif isinstance(value, (str, list)):
            text = value if isinstance(value, str) else "".join(map(str, value))
            forms[name] = "".join(text.split()) if name == "png" else text
    return forms


def _encodable(value: object) -> bool:
    try:
        _encode(value)
    except (TypeError, ValueError, RecursionError):  # not JSON after all: NaN, a key that is no string, a cycle
        return False
    return True


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def encode(line: Line) -> bytes:
    """A line for the host."""
    return _encode(line) + b"\n"


def clean(text: str) -> str:
    """*text* without the sequences that colour terminals."""
    return _ANSI.sub("", text)
