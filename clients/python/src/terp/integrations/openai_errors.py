"""Our errors as those of the OpenAI Agents SDK, which tells them to its agents. For `openai_session`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from agents.sandbox import (
    ExecTransportError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
)

from terp.errors import FileNotFound, TerpError


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """
    Raises:
        WorkspaceReadNotFoundError, WorkspaceArchiveReadError: In place of our errors inside.
    """
    try:
        yield
    except FileNotFound as error:
        raise WorkspaceReadNotFoundError(path=path, cause=error) from error
    except TerpError as error:
        raise WorkspaceArchiveReadError(
            path=path, context=context_of(error), cause=error, retryable=error.retryable
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """
    Raises:
        WorkspaceArchiveWriteError: In place of our errors inside.
    """
    try:
        yield
    except TerpError as error:
        raise WorkspaceArchiveWriteError(path=path, context=context_of(error), cause=error) from error


def not_run(command: Sequence[str | Path], error: TerpError) -> ExecTransportError:
    """Return what says that a command was not run, and why."""
    return ExecTransportError(
        command=command,
        context=context_of(error),
        cause=error,
        message=f"The command was not run: {error.detail}",
        retryable=error.retryable,
    )


def context_of(error: TerpError) -> dict[str, object]:
    """What the SDK's errors keep of ours."""
    return {"backend": "terp", "reason": error.code, "provider_error": error.detail}
