"""Background commands on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from terpd.api.respond import timestamp
from terpd.api.schemas.exec import SECRETS
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.api.utf8 import decode_counted
from terpd.control.commands import BackgroundCommand
from terpd.model.guest import DEFAULT_CWD, CommandInfo, LogPage

_EXAMPLE: JsonDict = {
    "id": "cmd_01JG0000000000000000000000",
    "command": "python3 -m http.server",
    "pid": 17,
    "status": "running",
    "exit_code": None,
    "started_at": "2026-01-01T00:00:00.000000Z",
}


class StartCommandBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"command": "python3 -m http.server"}]})

    command: str = Field(description="For the guest's shell; 100 KiB at most")
    cwd: str = Field(DEFAULT_CWD, description="Absolute")
    env: dict[str, str] = Field({}, description="Over the sandbox's own; 32 KiB in all")
    secrets: dict[str, str] = Field({}, description=SECRETS)

    def to_command(self) -> BackgroundCommand:
        return BackgroundCommand(command=self.command, cwd=self.cwd, env=self.env, secrets=self.secrets)


class CommandBody(AnswerBody):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    command: str = Field(description="Its first 4 KiB")
    pid: int
    status: Literal["running", "exited", "killed"] = Field(description="`killed`: ended by a signal, without exit code")
    exit_code: int | None
    started_at: str = Field(description="By the guest's clock")


class CommandsBody(AnswerBody):
    commands: list[CommandBody] = Field(description="Oldest first")


class LogsBody(AnswerBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"content": "hello\n", "size": 6, "truncated": False}]},
    )

    content: str = Field(
        description="stdout and stderr in the order they were written. Each byte that is no UTF-8 is one `?`, so that"
        " the next `offset` is this one plus the length of `content` in UTF-8"
    )
    size: int = Field(description="Bytes written so far")
    truncated: bool = Field(description="More follows")


def command_object(command: CommandInfo) -> dict[str, Any]:
    return {
        "id": command.exec_id,
        "command": command.command,
        "pid": command.pid,
        **status_fields(command),
        "started_at": timestamp(command.started_at),
    }


def status_fields(command: CommandInfo) -> dict[str, Any]:
    exited = command.exited
    if exited is None:
        return {"status": "running", "exit_code": None}
    if exited.signal is not None:
        return {"status": "killed", "exit_code": None}
    return {"status": "exited", "exit_code": exited.exit_code}


def logs_object(page: LogPage) -> dict[str, Any]:
    """
    What could still become a character is left out, and does not count as what follows: who asks for it at once would
    ask again and again.
    """
    unread = page.size - page.offset - len(page.data)
    content, taken = decode_counted(page.data, more=unread > 0 or page.exited is None)
    return {"content": content, "size": page.size, "truncated": unread > 0 and taken > 0}
