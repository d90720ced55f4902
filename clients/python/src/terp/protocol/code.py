"""Code in kernels: its requests, its events off the wire, and what they add up to."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from terp import models
from terp.errors import BadReply, TerpError
from terp.models import CodeDone, CodeError, CodeEvent, CodeText, Execution, Result
from terp.protocol.output import MAX_OUTPUT_CHARACTERS
from terp.protocol.reading import Json, error_by_code, misshapen, names, optional, time
from terp.protocol.request import EVENTS, Repeat, Request, sandbox_path, segment

# A result has 4 MiB in all its forms at most, and is written in ASCII: six characters for one of UTF-8 at worst.
MAX_EVENT_BYTES = 32 * 1024 * 1024
MAX_RESULTS = 64  # the server's cap


def run(sandbox_id: str, code: str, *, language: str, context_id: str | None, timeout: int) -> Request:
    body = {
        "code": code,
        "language": language,
        "context_id": context_id,
        "timeout_seconds": timeout,
        "stream": True,
    }
    return Request("POST", sandbox_path(sandbox_id, "code"), body, EVENTS)


def create_context(sandbox_id: str, *, language: str, cwd: str | None) -> Request:
    body = {"language": language} if cwd is None else {"language": language, "cwd": cwd}
    return Request("POST", sandbox_path(sandbox_id, "code/contexts"), body)


def list_contexts(sandbox_id: str) -> Request:
    return Request("GET", sandbox_path(sandbox_id, "code/contexts"), repeat=Repeat.IF_LOST)


def restart_context(sandbox_id: str, context_id: str) -> Request:
    return Request("POST", _context(sandbox_id, context_id, "/restart"), {}, repeat=Repeat.IF_LOST)


def remove_context(sandbox_id: str, context_id: str) -> Request:
    # Not repeated when the reply is lost: the second answer would be that there is no such context.
    return Request("DELETE", _context(sandbox_id, context_id))


def _context(sandbox_id: str, context_id: str, rest: str = "") -> str:
    return sandbox_path(sandbox_id, f"code/contexts/{segment(context_id, 'context', 'ctx')}{rest}")


def read_context(body: Json) -> models.CodeContextInfo:
    try:
        return models.CodeContextInfo(
            id=str(body["context_id"]),
            language=str(body.get("language") or "python"),
            cwd=optional(str, body.get("cwd")),
            created_at=optional(time, body.get("created_at")),
            last_used_at=optional(time, body.get("last_used_at")),
            executions=int(body.get("executions") or 0),
            alive=bool(body.get("alive", True)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise misshapen("a code context", error) from error


def read_contexts(body: Json) -> list[models.CodeContextInfo]:
    rows = body.get("contexts")
    if not isinstance(rows, list):
        raise misshapen("code contexts", "no list")
    return [read_context(row) for row in rows]


class CodeReader:
    """Read the payloads of one run. `finished` is True after the last event."""

    def __init__(self) -> None:
        self.finished = False

    def read(self, payload: bytes) -> Iterator[CodeEvent]:
        """
        Yield what *payload* says; an unknown kind says nothing.

        Raises:
            TerpError: The server reports that.
            BadReply: It makes no sense.
        """
        try:
            frame = json.loads(payload)
            kind = frame.get("kind")
            if kind == "stream":
                yield CodeText("stderr" if frame["stream"] == "stderr" else "stdout", str(frame["text"]))
            elif kind == "result":
                yield _result(frame["result"])
            elif kind == "error" and "error_code" not in frame and "code" not in frame:
                yield _error(frame["error"])
            elif kind == "error":
                self.finished = True
                raise _failure(frame)
            elif kind == "done":
                self.finished = True
                yield _done(frame)
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise BadReply(
                f"An event of the stream is not as agreed; is the server older or newer? ({error!r})"
            ) from error


class Collected:
    """What a run came to, to a limit: feed it all its events, then ask for the execution."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._room = {"stdout": MAX_OUTPUT_CHARACTERS, "stderr": MAX_OUTPUT_CHARACTERS}
        self._results: list[Result] = []
        self._cut: set[str] = set()
        self._error: CodeError | None = None
        self._done: CodeDone | None = None

    def add(self, event: CodeEvent) -> None:
        if isinstance(event, CodeText):
            room = self._room[event.stream]
            if len(event.text) > room:
                self._cut.add(event.stream)
            self._texts[event.stream].append(event.text[:room])
            self._room[event.stream] = room - min(room, len(event.text))
        elif isinstance(event, Result):
            if len(self._results) < MAX_RESULTS:
                self._results.append(event)
            else:
                self._cut.add("results")
        elif isinstance(event, CodeError):
            self._error = event
        else:
            self._done = event

    def execution(self) -> Execution:
        done = self._done
        assert done is not None  # a stream either ends with it or raises
        return Execution(
            results=tuple(self._results),
            stdout="".join(self._texts["stdout"]),
            stderr="".join(self._texts["stderr"]),
            error=done.error or self._error,
            execution_count=done.execution_count,
            context_id=done.context_id,
            duration_ms=done.duration_ms,
            interrupted=done.interrupted,
            restarted=done.restarted,
            truncated=(*done.truncated, *sorted(self._cut - set(done.truncated))),
        )


def _result(row: Json) -> Result:
    return Result(
        type=str(row["type"]),
        text=optional(str, row.get("text")),
        html=optional(str, row.get("html")),
        markdown=optional(str, row.get("markdown")),
        latex=optional(str, row.get("latex")),
        svg=optional(str, row.get("svg")),
        png=optional(_bytes, row.get("png")),
        json=row.get("json"),
        chart=row.get("chart"),
        is_main=bool(row.get("is_main")),
    )


def _error(row: Json) -> CodeError:
    return CodeError(str(row["name"]), str(row["value"]), names(row.get("traceback") or ()))


def _done(frame: Json) -> CodeDone:
    return CodeDone(
        context_id=str(frame["context_id"]),
        execution_count=optional(int, frame.get("execution_count")),
        duration_ms=int(frame["duration_ms"]),
        error=optional(_error, frame.get("error")),
        interrupted=bool(frame.get("interrupted")),
        restarted=bool(frame.get("restarted")),
        truncated=names(frame.get("truncated") or ()),
    )


def _failure(frame: dict[str, Any]) -> TerpError:
    code = str(frame.get("error_code") or frame.get("code"))
    said = frame.get("error")
    value = said.get("value") if isinstance(said, dict) else None
    detail = frame.get("message") or frame.get("detail") or value or "The code failed and the server gave no reason"
    fields = {key: value for key, value in frame.items() if key not in {"kind", "error_code", "code", "error"}}
    return error_by_code(code, str(detail), fields)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=False)  # Jupyter breaks its lines
