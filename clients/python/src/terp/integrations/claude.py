"""The tools that Claude was taught: a shell that lasts, and an editor. For `anthropic`, which offers them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from terp.errors import InvalidRequest
from terp.integrations.shown import Output, shortened
from terp.integrations.tools import Tool
from terp.models import Execution, FileInfo

_SHELL_TIMEOUT_S = 120
_DEFAULT_SHELL = "default-bash"
_DESCRIPTION = "As Claude knows it"


def _bash(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    """In the sandbox's bash kernel: directory, variables and functions last from call to call."""
    if given["restart"]:
        for context in (yield sandbox.code_contexts()):
            if context.id == _DEFAULT_SHELL:
                yield context.restart()
        return Output("The shell was restarted")
    if given["command"] is None:
        raise InvalidRequest("command is missing")
    done: Execution = yield sandbox.run_code(given["command"], language="bash", timeout=_SHELL_TIMEOUT_S)
    ends = []
    if done.interrupted:
        ends.append(f"[interrupted after {_SHELL_TIMEOUT_S} s]")
    elif done.error is not None:
        ends.append(f"[{done.error.value}]")
    written = [shortened(text.rstrip("\n")) for text in (done.stdout, done.stderr) if text.strip()]
    return Output("\n".join([*written, *ends]) or "[no output]")


def _edit(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    path, text = given["path"], given["file_text"]
    if given["command"] == "create":
        if text is None:
            raise InvalidRequest("file_text is missing")
        yield sandbox.files.write(path, text)
        return Output(f"Written: {path}")
    info: FileInfo = yield sandbox.files.stat(path)
    if info.is_dir:
        if given["command"] != "view":
            raise InvalidRequest(f"{path} is a directory")
        entries = yield sandbox.files.list(path)
        return Output(shortened("\n".join(sorted(f"{each.name}{'/' if each.is_dir else ''}" for each in entries))))
    text = yield sandbox.files.read(path)
    if given["command"] == "view":
        return Output(shortened(_numbered(text, given["view_range"])))
    changed = _replaced(text, given) if given["command"] == "str_replace" else _inserted(text, given)
    yield sandbox.files.write(path, changed, mode=info.mode)
    return Output(f"Changed: {path}")


def _numbered(text: str, view_range: list[int] | None) -> str:
    lines = _lines(text)
    first, last = view_range or (1, -1)
    if last == -1:
        last = len(lines)
    if not 1 <= first <= max(1, len(lines)) or last < first - 1:
        raise InvalidRequest(f"view_range must be within 1 and {len(lines)}")
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(lines[first - 1 : last], first))


def _replaced(text: str, given: Mapping[str, Any]) -> str:
    if not given["old_str"]:
        raise InvalidRequest("old_str is missing")
    found = text.count(given["old_str"])
    if found != 1:
        raise InvalidRequest(f"old_str must be there once, and is there {found} times")
    return text.replace(given["old_str"], given["new_str"] or "")


def _inserted(text: str, given: Mapping[str, Any]) -> str:
    lines = _lines(text)
    line, new = given["insert_line"], given["insert_text"]
    if new is None or line is None or line > len(lines):
        raise InvalidRequest(f"insert_text and insert_line are needed, a line from 0 to {len(lines)}")
    ended = "\n" if not text or text.endswith("\n") else ""
    return "\n".join([*lines[:line], *_lines(new), *lines[line:]]) + ended


def _lines(text: str) -> list[str]:
    """As editors count them: what `splitlines` takes for ends besides are characters."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


BASH = Tool(
    "bash",
    _DESCRIPTION,
    {
        "type": "object",
        "properties": {"command": {"type": "string"}, "restart": {"type": "boolean"}},
        "required": [],
    },
    _bash,
)

EDITOR = Tool(
    "str_replace_based_edit_tool",
    _DESCRIPTION,
    {
        "type": "object",
        "properties": {
            "command": {
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert"],
                "description": "What to do",
            },
            "path": {"type": "string", "description": "Absolute"},
            "file_text": {"type": "string"},
            "old_str": {"type": "string"},
            "new_str": {"type": "string"},
            "insert_line": {"type": "integer", "minimum": 0},
            "insert_text": {"type": "string"},
            "view_range": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        },
        "required": ["command", "path"],
    },
    _edit,
)

TYPES = {BASH.name: "bash_20250124", EDITOR.name: "text_editor_20250728"}
