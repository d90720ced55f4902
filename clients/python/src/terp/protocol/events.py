"""
Commands' events off the wire: bytes → server-sent events → typed events.

    EventParser   bytes in any cuts      →  payloads, as the HTML standard's event streams say
    ExecReader    payloads of one exec   →  Started, Stdout, Stderr, Exited; an `error` payload is raised
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from terp.errors import BadReply, TerpError
from terp.models import ExecEvent, Exited, Started, Stderr, Stdout
from terp.protocol.reading import error_by_code

MAX_EVENT_BYTES = 8 * 1024 * 1024  # a server's chunk is 64 KiB at most; more is no event stream of ours

_LINE_END = re.compile(rb"\r\n|\r|\n")  # bytes: str.splitlines() would also cut at U+2028 and U+0085
_ERROR_CODES = {"killed_by_signal": "exec_killed"}


class EventParser:
    """Cut a byte stream into events. Only `data` matters here; an event that is not finished is never seen."""

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """
        Yield the payloads that *chunk* completes. Exhaust it before the next call.

        Raises:
            BadReply: An event grows beyond *max_bytes*.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the second half of a line end whose first half was a line end already
            self._after_cr = False
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        *ends, rest = _LINE_END.split(chunk)
        for end in ends:
            self._append(end)
            line = bytes(self._line)
            self._line.clear()
            if line:
                self._field(line)
            else:
                data, self._data, self._size = self._data, [], 0
                if data:
                    yield b"\n".join(data)
        self._append(rest)

    def _append(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max_bytes:
            raise BadReply(f"The server sent an event of more than {self._max_bytes >> 20} MiB")
        self._line += part

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value[1:] if value.startswith(b" ") else value)
        else:
            self._size -= len(line)  # a comment keeps the connection alive and weighs nothing


class ExecReader:
    """
    Read the payloads of one exec, of one stream or of several that go on from each other.

    Attributes:
        end: Of the output so far, in bytes: where the next stream is to begin.
        finished: True after the last event.
    """

    def __init__(self, offset: int = 0) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._texts = {"stdout": decoder("replace"), "stderr": decoder("replace")}
        self.end = offset
        self._known = 0
        self._started = False
        self.finished = False

    def resume(self) -> int:
        """Return where a further stream is to begin; what it brings of before that is left out."""
        self.finished, self._known = False, self.end
        return self.end

    def read(self, payload: bytes) -> Iterator[ExecEvent]:
        """
        Yield what *payload* says; an unknown kind says nothing.

        Raises:
            ExecTimeout, ExecKilled, TerpError: The server reports that.
            BadReply: It makes no sense.
        """
        try:
            frame = json.loads(payload)
            kind = frame.get("kind")
            if kind == "exec_started":
                if self._started:
                    return
                self._started = True
                yield Started(pid=int(frame.get("pid") or 0), command_id=str(frame.get("command_id") or ""))
            elif kind == "exec_chunk":
                data = base64.b64decode(frame["data"], validate=True)
                yield from self._output(frame["stream"], data, int(frame.get("offset", self.end)))
            elif kind == "exec_exited":
                self.finished = True
                exited = Exited(exit_code=int(frame["code"]), duration_ms=int(frame["duration_ms"]))
                yield from self.rest()
                yield exited
            elif kind == "error":
                self.finished = True
                raise _failure(frame)
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise BadReply(
                f"An event of the stream is not as agreed; is the server older or newer? ({error!r})"
            ) from error

    def rest(self) -> Iterator[ExecEvent]:
        """Yield the replacement for a character whose end never came."""
        for stream, decoder in self._texts.items():
            text = decoder.decode(b"", final=True)
            if text:
                yield _KINDS[stream](b"", text, self.end)

    def _output(self, stream: str, data: bytes, offset: int) -> Iterator[ExecEvent]:
        kind, again = _KINDS[stream], self._known - offset
        if again > 0:
            data, offset = data[again:], self._known
            if not data:
                return
        self.end = offset + len(data)
        yield kind(data, self._texts[stream].decode(data), offset)


_KINDS: dict[str, type[Stdout | Stderr]] = {"stdout": Stdout, "stderr": Stderr}


def _failure(frame: dict[str, Any]) -> TerpError:
    code = str(frame.get("code") or "internal")
    fields = {key: value for key, value in frame.items() if key not in {"kind", "code", "message", "detail"}}
    detail = str(frame.get("message") or frame.get("detail") or "The command failed and the server gave no reason")
    return error_by_code(_ERROR_CODES.get(code, code), detail, fields)
