"""Code in persistent kernels, and what comes of it."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from terp.errors import CodeFailed


@dataclass(frozen=True)
class CodeContextInfo:
    """
    A kernel with its variables as the server last described it.

    Attributes:
        language: `python`, `javascript` or `bash`, as far as the template has them.
        executions: How often code ran in it.
        alive: False when the kernel died; the next run starts it again, without its variables.
    """

    id: str
    language: str
    cwd: str | None
    created_at: dt.datetime | None
    last_used_at: dt.datetime | None
    executions: int
    alive: bool


@dataclass(frozen=True)
class CodeText:
    """Code wrote to `stream`: `stdout` or `stderr`."""

    stream: str
    text: str


@dataclass(frozen=True)
class Result:
    """
    Something that code showed, in all forms it has; those it has not are None. Notebooks display it.

    Attributes:
        type: The richest form: `text`, `html`, `image_png`, `json` or `chart`.
        png: The image's bytes.
        json: An object or array.
        chart: What matplotlib drew, as data: type, title, axes, series.
        is_main: The value of the last expression, not something displayed on the way.
    """

    type: str
    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    latex: str | None = None
    svg: str | None = None
    png: bytes | None = field(default=None, repr=False)
    json: Any = None
    chart: Mapping[str, Any] | None = None
    is_main: bool = False

    @property
    def png_base64(self) -> str | None:
        """The image as it goes into a data URL."""
        return None if self.png is None else base64.b64encode(self.png).decode()

    def _repr_png_(self) -> bytes | None:
        return self.png

    def _repr_html_(self) -> str | None:
        return self.html

    def _repr_svg_(self) -> str | None:
        return self.svg

    def _repr_markdown_(self) -> str | None:
        return self.markdown

    def _repr_latex_(self) -> str | None:
        return self.latex


@dataclass(frozen=True)
class CodeError:
    """
    What code raised: a value, not an exception of this package.

    Attributes:
        name: Of its class, e.g. `ZeroDivisionError`.
        value: Its message.
        traceback: Lines, without colours.
    """

    name: str
    value: str
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodeDone:
    """The last event of a run. Attributes as of `Execution`."""

    context_id: str
    execution_count: int | None
    duration_ms: int
    error: CodeError | None = None
    interrupted: bool = False
    restarted: bool = False
    truncated: tuple[str, ...] = ()


CodeEvent = CodeText | Result | CodeError | CodeDone


@dataclass(frozen=True)
class Execution:
    """
    What a run of code left behind.

    Attributes:
        results: All it showed, in that order.
        error: What it raised; None when it ran through.
        context_id: Where it ran: the next run there finds its variables.
        interrupted: It ran into its timeout; the variables are still there.
        restarted: The kernel had died and was started again: earlier variables are lost.
        truncated: What was cut for its size: `stdout`, `stderr`, `results`, or a form of a result.
    """

    results: tuple[Result, ...]
    stdout: str
    stderr: str
    error: CodeError | None
    execution_count: int | None
    context_id: str
    duration_ms: int
    interrupted: bool = False
    restarted: bool = False
    truncated: tuple[str, ...] = ()

    @property
    def main(self) -> Result | None:
        """The value of the last expression; None when there is none."""
        return next((result for result in self.results if result.is_main), None)

    @property
    def text(self) -> str | None:
        """The main result as text."""
        return None if self.main is None else self.main.text

    def check(self) -> Execution:
        """
        Return this execution.

        Raises:
            CodeFailed: It raised something, or ran into its timeout.
        """
        if self.error is not None or self.interrupted:
            raise CodeFailed(self)
        return self
