"""Commands on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.api.utf8 import decode_kept
from terpd.control.exec import Command, ExecResult
from terpd.control.outcome import TIMEOUT_EXIT_CODE
from terpd.model.errors import ExecKilled, ExecTimeout, TerpError
from terpd.model.guest import DEFAULT_CWD, OutputStream

NOT_RUN_EXIT_CODE = 125  # as env(1) and its like exit when they fail themselves, before or around the command

SECRETS = (
    "Variables over `env` for this command alone: held in the guest's memory until it is started, never stored or"
    " logged. 64 KiB in all. While the command runs, snapshots and forks are refused unless they include secrets"
)


class ExecBody(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"command": "python3 main.py", "timeout_seconds": 60, "stream": False}]}
    )

    command: str = Field(description="For the guest's shell; 100 KiB at most")
    cwd: str = Field(DEFAULT_CWD, description="Absolute")
    env: dict[str, str] = Field({}, description="Over the sandbox's own; 32 KiB in all")
    timeout_seconds: int = Field(60, description="SIGTERM at its end, SIGKILL 2 s later")
    stream: bool = Field(False, description="Answer with server-sent events")
    secrets: dict[str, str] = Field({}, description=SECRETS)
    stdin: str | None = Field(None, description="Written to the command, then closed; left out: /dev/null")

    def to_command(self) -> Command:
        return Command(
            command=self.command,
            cwd=self.cwd,
            env=self.env,
            timeout_s=self.timeout_seconds,
            stdin=self.stdin,
            secrets=self.secrets,
        )


class ExecResultBody(AnswerBody):
    """
    A command that ended by itself, whatever its exit code; a timeout or a signal is an error.

    A command that takes longer than 20 s is answered with 200 before its end is known. Then a timeout is
    `exit_code` 124 with `code` `exec_timeout`; a signal 128 + its number with `exec_killed` and `signal`; any other
    failure 125 with its `code`. Always with `detail`.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"stdout": "hello\n", "stderr": "", "exit_code": 0, "duration_ms": 12}]},
    )

    stdout: str = Field(description="UTF-8, with U+FFFD for what is not")
    stderr: str
    exit_code: int
    duration_ms: int
    truncated: list[Literal["stdout", "stderr"]] | None = Field(
        None, description="Of these streams only the first 8 MiB are here"
    )
    code: str | None = None
    detail: str | None = None
    signal: int | None = None


def result_object(result: ExecResult) -> dict[str, Any]:
    truncated = {"truncated": [stream.value for stream in result.truncated]} if result.truncated else {}
    return {
        "stdout": decode_kept(result.stdout, cut=OutputStream.STDOUT in result.truncated),
        "stderr": decode_kept(result.stderr, cut=OutputStream.STDERR in result.truncated),
        "exit_code": result.exited.exit_code,
        "duration_ms": result.exited.duration_ms,
        **truncated,
    }


def late_failure_object(error: TerpError) -> dict[str, Any]:
    """A failure that comes when 200 was already said; the error carries the output so far, if there is any."""
    exit_code = NOT_RUN_EXIT_CODE
    if isinstance(error, ExecTimeout):
        exit_code = TIMEOUT_EXIT_CODE
    elif isinstance(error, ExecKilled):
        exit_code = 128 + int(str(error.fields["signal"]))
    return {
        "stdout": "",
        "stderr": "",
        "duration_ms": 0,
        **error.fields,
        "exit_code": exit_code,
        "code": error.code,
        "detail": error.detail,
    }
