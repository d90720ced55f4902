"""Terminals on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from terpd.api.respond import timestamp
from terpd.api.schemas.commands import status_fields
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.ptys import USUAL_SIZE, PtyRequest
from terpd.model.guest import DEFAULT_CWD, CommandInfo, PtySize

_EXAMPLE: JsonDict = {
    "id": "cmd_01JG0000000000000000000000",
    "command": "htop",
    "pid": 17,
    "status": "running",
    "exit_code": None,
    "started_at": "2026-01-01T00:00:00.000000Z",
}


class OpenPtyBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"cols": 120, "rows": 40}]})

    command: str | None = Field(None, description="For the guest's shell, 100 KiB at most; left out: a login shell")
    cols: int = Field(USUAL_SIZE.cols, description="1 to 1000")
    rows: int = Field(USUAL_SIZE.rows, description="1 to 1000")
    cwd: str = Field(DEFAULT_CWD, description="Absolute")
    env: dict[str, str] = Field({}, description="Over the sandbox's own and `TERM=xterm-256color`; 32 KiB in all")

    def to_request(self) -> PtyRequest:
        return PtyRequest(self.command, PtySize(self.cols, self.rows), self.cwd, self.env)


class ResizePtyBody(RequestBody):
    cols: int = Field(description="1 to 1000")
    rows: int = Field(description="1 to 1000")

    def to_size(self) -> PtySize:
        return PtySize(self.cols, self.rows)


class PtyBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    command: str = Field(description="Its first 4 KiB")
    pid: int
    status: Literal["running", "exited", "killed"] = Field(description="`killed`: ended by a signal, without exit code")
    exit_code: int | None
    started_at: str = Field(description="By the guest's clock")


class PtysBody(AnswerBody):
    ptys: list[PtyBody] = Field(description="Oldest first")


class TypedBody(AnswerBody):
    offset: int = Field(description="Bytes that the terminal has accepted from its start")


def pty_object(pty: CommandInfo) -> dict[str, Any]:
    return {
        "id": pty.exec_id,
        "command": pty.command,
        "pid": pty.pid,
        **status_fields(pty),
        "started_at": timestamp(pty.started_at),
    }
