"""`terp code`: code in a kernel, with its results and images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from terp import CodeError, Execution, Result, Sandbox
from terp.cli import options
from terp.cli.commands import LEASE_MARGIN_S, TIMED_OUT, new_sandbox
from terp.cli.terminal import complain, tell_json, write

LANGUAGES = {".py": "python", ".js": "javascript", ".mjs": "javascript", ".sh": "bash", ".bash": "bash"}


def code(
    file: Annotated[str, typer.Argument(help="A local file; - reads it from stdin.")],
    *,
    sandbox_id: Annotated[
        str | None,
        typer.Option("--sandbox", metavar="ID", help="Where it runs.", show_default="a new one, then terminated"),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Id of a context of that sandbox.", show_default="the language's default")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="python, javascript or bash.", show_default="by the file's suffix, else python"),
    ] = None,
    template: Annotated[
        str, typer.Option("--template", "-t", help="What a new sandbox starts from.")
    ] = "code-interpreter",
    network: options.Network = None,
    allow: options.Allow = None,
    timeout: Annotated[int, typer.Option(help="Seconds the code may run; it is then interrupted.")] = 60,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Save images and other rich results there.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Run code in a kernel and print what it writes and shows.

    With --sandbox its variables stay there for the next run. The exit code is 0, 1 when the code raised, 124 when it
    ran into its timeout.

    Example: terp code --sandbox sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB --output-dir plots analysis.py
    """
    source = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    language = language or LANGUAGES.get(Path(file).suffix.lower(), "python")
    if context and not sandbox_id:
        raise typer.BadParameter("a context is in a sandbox: give --sandbox, too", param_hint="--context")
    with _where(
        sandbox_id, template=template, network=network, allow_domains=allow or None, timeout=timeout
    ) as sandbox:
        execution = sandbox.run_code(
            source,
            language=language,
            context=context,
            timeout=timeout,
            on_stdout=None if as_json else lambda text: write(sys.stdout, text.encode()),
            on_stderr=None if as_json else lambda text: write(sys.stderr, text.encode()),
            on_result=None if as_json else _show,
        )
    if output_dir is not None:
        _save(execution, output_dir)
    if as_json:
        tell_json(execution)
    elif execution.error is not None:
        _show_error(execution.error)
    if execution.restarted:
        complain("the kernel had died and was started again: earlier variables are lost")
    if execution.truncated:
        complain(f"cut for its size: {', '.join(execution.truncated)}")
    if execution.interrupted:
        complain(f"the code was interrupted after {timeout} s; its variables are still there")
        raise typer.Exit(TIMED_OUT)
    raise typer.Exit(1 if execution.error else 0)


@contextlib.contextmanager
def _where(sandbox_id: str | None, *, timeout: int, **options_of_create: object) -> Iterator[Sandbox]:
    if sandbox_id:
        yield Sandbox.get(sandbox_id)
        return
    with new_sandbox(keep=False, timeout=timeout + LEASE_MARGIN_S, **options_of_create) as sandbox:
        yield sandbox


def _show(result: Result) -> None:
    if result.text:
        write(sys.stdout, f"{result.text}\n".encode())


def _show_error(error: CodeError) -> None:
    lines = error.traceback or (f"{error.name}: {error.value}",)
    write(sys.stderr, ("\n".join(lines) + "\n").encode())


def _save(execution: Execution, directory: Path) -> None:
    """File names are ours alone: nothing in them comes from the sandbox."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(execution.results, 1):
        forms = {"png": result.png, "svg": result.svg, "html": result.html}
        for suffix, content in forms.items():
            if content is None:
                continue
            path = directory / f"result-{number}.{suffix}"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            complain(f"saved {path}")
