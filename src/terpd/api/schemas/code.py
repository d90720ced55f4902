"""Code and its kernels on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from terpd.api.respond import optional_timestamp
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.control.code import CodeExecution
from terpd.model.code import CodeContext, CodeDone, CodeError, CodeRequest, CodeResult, Language
from terpd.model.errors import TerpError

_LANGUAGE = Literal["python", "javascript", "bash"]


class CodeBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "1 + 1", "timeout_seconds": 60}]})

    code: str = Field(description="1 MiB at most")
    language: _LANGUAGE = Field("python", description="Of the default context; a context that is named has its own")
    context_id: str | None = Field(None, description="Left out or null: the default context of the language")
    timeout_seconds: int = Field(60, description="The kernel is interrupted at its end; what it holds stays")
    stream: bool = Field(False, description="Answer with server-sent events")

    def to_request(self) -> CodeRequest:
        return CodeRequest(self.code, Language(self.language), self.context_id, float(self.timeout_seconds))


class CreateContextBody(RequestBody):
    language: _LANGUAGE = "python"
    cwd: str | None = Field(None, description="Absolute, and a directory; left out: /workspace")


class ResultBody(AnswerBody):
    """One thing that the code showed, in all forms that it has. `type` is the richest."""

    type: Literal["text", "html", "image_png", "json", "chart"]
    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    latex: str | None = None
    svg: str | None = None
    png: str | None = Field(None, description="Base64")
    json_: Any = Field(None, alias="json", description="An object or array")
    chart: dict[str, Any] | None = Field(None, description="What a matplotlib figure shows, as data: see docs/code.md")
    is_main: bool = Field(False, description="The value of the last expression")


class CodeErrorBody(AnswerBody):
    name: str
    value: str
    traceback: list[str]


class CodeExecutionBody(AnswerBody):
    """
    What the code showed and raised: an exception is data in a 200.

    Code that takes longer than 20 s is answered with 200 before its end is known. What then keeps it from ending is an
    `error` too, with `code` and `detail` beside it.
    """

    model_config = ConfigDict(extra="allow")

    results: list[ResultBody]
    stdout: str
    stderr: str
    error: CodeErrorBody | None
    execution_count: int | None
    context_id: str
    duration_ms: int
    interrupted: bool = Field(description="It hit its timeout; what the kernel holds stays")
    restarted: bool = Field(description="The kernel had died and another stands in its place: its state is lost")
    truncated: list[str] = Field(description="What was cut by a cap: `stdout`, `stderr`, `results`, a form of a result")
    code: str | None = None
    detail: str | None = None


class ContextBody(AnswerBody):
    """A kernel with its namespace."""

    context_id: str
    language: _LANGUAGE
    cwd: str
    created_at: str | None
    last_used_at: str | None
    executions: int
    alive: bool = Field(description="False: its kernel died, and the next run starts another")


class ContextsBody(AnswerBody):
    contexts: list[ContextBody]


def context_object(context: CodeContext) -> dict[str, Any]:
    return {
        "context_id": context.id,
        "language": context.language.value,
        "cwd": context.cwd,
        "created_at": optional_timestamp(context.created_at),
        "last_used_at": optional_timestamp(context.last_used_at),
        "executions": context.executions,
        "alive": context.alive,
    }


def result_object(result: CodeResult) -> dict[str, Any]:
    forms = ("text", "html", "markdown", "latex", "svg", "png", "json", "chart")
    present = {name: value for name in forms if (value := getattr(result, name)) is not None}
    return {"type": result.type.value, **present, "is_main": result.is_main}


def error_object(error: CodeError) -> dict[str, Any]:
    return {"name": error.name, "value": error.value, "traceback": list(error.traceback)}


def done_object(done: CodeDone) -> dict[str, Any]:
    return {
        "error": None if done.error is None else error_object(done.error),
        "execution_count": done.execution_count,
        "context_id": done.context_id,
        "duration_ms": done.duration_ms,
        "interrupted": done.interrupted,
        "restarted": done.restarted,
        "truncated": list(done.truncated),
    }


def execution_object(execution: CodeExecution) -> dict[str, Any]:
    return {
        "results": [result_object(result) for result in execution.results],
        "stdout": execution.stdout,
        "stderr": execution.stderr,
        **done_object(execution.done),
    }


def late_failure_object(error: TerpError, context_id: str) -> dict[str, Any]:
    """A failure that comes when 200 was already said."""
    nothing = CodeDone(context_id, None, 0, CodeError(error.code, error.detail))
    return {
        **error.fields,
        "results": [],
        "stdout": "",
        "stderr": "",
        **done_object(nothing),
        "code": error.code,
        "detail": error.detail,
    }
