"""Code in persistent kernels: what is run, what comes of it. Everything in a result is what the guest says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from terpd.model.guest import DEFAULT_CWD, OutputStream

DEFAULT_CONTEXT = "default"  # the one that runs what names none; each language has one of its own
MAX_CODE_BYTES = 1024 * 1024
MAX_CONTEXTS = 16  # of one sandbox, the default ones included
MAX_RESULTS = 64  # of one run
MAX_RESULT_BYTES = 4 * 1024 * 1024  # of one result, all its forms together
MAX_RESULTS_BYTES = 16 * 1024 * 1024  # of all results of one run
MAX_TEXT_BYTES = 1024 * 1024  # of stdout, and of stderr, in one run


class Language(StrEnum):
    PYTHON = "python"
    JAVASCRIPT = "javascript"
    BASH = "bash"


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """
    `context_id` None: the default context of the language. `timeout_s` above 0: the kernel is then interrupted, and
    what it holds stays.
    """

    code: str
    language: Language = Language.PYTHON
    context_id: str | None = None
    timeout_s: float = 60.0


class ResultType(StrEnum):
    """The richest form a result has."""

    TEXT = "text"
    HTML = "html"
    IMAGE_PNG = "image_png"
    JSON = "json"
    CHART = "chart"


@dataclass(frozen=True, slots=True)
class CodeResult:
    """
    One thing a cell showed, in all forms it has; those absent are None.

    Attributes:
        png: Base64.
        json: An object or array.
        chart: What matplotlib drew, as data: type, title, axes, series.
        is_main: The value of the cell's last expression, not something displayed on the way.
    """

    type: ResultType
    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    latex: str | None = None
    svg: str | None = None
    png: str | None = None
    json: Any = None
    chart: Mapping[str, Any] | None = None
    is_main: bool = False


@dataclass(frozen=True, slots=True)
class CodeError:
    """What the code raised. `traceback` is lines, without colours."""

    name: str
    value: str
    traceback: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class CodeText:
    stream: OutputStream
    text: str


@dataclass(frozen=True, slots=True)
class CodeDone:
    """
    The last event of a run.

    Attributes:
        interrupted: It hit its timeout; what the kernel holds stays.
        restarted: The kernel had died, before or during the run, and a new one stands in its place: its state is lost.
        truncated: What was cut by a cap: `stdout`, `stderr`, `results`, or a form of a result.
    """

    context_id: str
    execution_count: int | None
    duration_ms: int
    error: CodeError | None = None
    interrupted: bool = False
    restarted: bool = False
    truncated: Sequence[str] = field(default_factory=tuple)


CodeEvent = CodeText | CodeResult | CodeError | CodeDone


@dataclass(frozen=True, slots=True)
class CodeContext:
    """A kernel with its namespace. `alive` is False when it died; the next run restarts it."""

    id: str
    language: Language
    cwd: str = DEFAULT_CWD
    created_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None
    executions: int = 0
    alive: bool = True
