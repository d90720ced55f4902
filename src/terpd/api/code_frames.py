"""The events of code as server-sent events: see `sse`. A client that leaves interrupts the code."""

from __future__ import annotations

from collections.abc import Iterator

from terpd.api.schemas.code import done_object, error_object, result_object
from terpd.api.sse import frame
from terpd.model.code import CodeDone, CodeEvent, CodeResult, CodeText
from terpd.model.errors import TerpError


class CodeFrames:
    @staticmethod
    def of(event: CodeEvent) -> Iterator[bytes]:
        if isinstance(event, CodeText):
            yield frame({"kind": "stream", "stream": event.stream.value, "text": event.text})
        elif isinstance(event, CodeResult):
            yield frame({"kind": "result", "result": result_object(event)})
        elif isinstance(event, CodeDone):
            yield frame({"kind": "done", **done_object(event)})
        else:
            yield frame({"kind": "error", "error": error_object(event)})

    @staticmethod
    def broken(error: TerpError) -> bytes:
        """With `error_code` it is the last one; clients take the words out of `error`."""
        told = {"name": error.code, "value": error.detail, "traceback": []}
        return frame(
            {**error.fields, "kind": "error", "error_code": error.code, "message": error.detail, "error": told}
        )
