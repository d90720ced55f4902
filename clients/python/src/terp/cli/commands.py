"""`terp run`, `terp exec`, `terp attach`: a program's bytes and exit code passed through."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from terp import (
    ConnectionFailed,
    ExecEvent,
    ExecKilled,
    ExecTimeout,
    Exited,
    RequestTimeout,
    Sandbox,
    Started,
    StateConflict,
    Stderr,
    Stdout,
    TerpError,
)
from terp.cli import options
from terp.cli.interrupts import Interrupted, interrupts
from terp.cli.terminal import complain, told, write

TIMED_OUT = 124  # as timeout(1)
LEASE_MARGIN_S = 30  # for the upload: the script's own timeout must strike first, for it is the better message

INTERPRETERS = {
    ".py": "python",
    ".js": "node",
    ".mjs": "node",
    ".cjs": "node",
    ".sh": "sh",
    ".bash": "bash",
}
DEFAULT_INTERPRETERS = (("python", "python"), ("code-interpreter", "python"), ("node", "node"))  # by template's start

Timeout = Annotated[int, typer.Option(help="Seconds the command may run.")]


def run(
    script: Annotated[str, typer.Argument(help="A local file; - reads it from stdin.")],
    args: Annotated[list[str] | None, typer.Argument(help="Passed to the script.", show_default=False)] = None,
    *,
    template: options.Template = "python-3.12",
    size: options.Size = "small",
    network: options.Network = None,
    allow: options.Allow = None,
    timeout: Timeout = 600,
    env: options.Env = None,
    secret: options.SecretOption = None,
    volume: options.Volume = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not terminate the sandbox; its id goes to stderr.")] = False,
) -> None:
    """
    Run a script in a new sandbox, and terminate it.

    Its output and exit code are passed through; its input is empty. Options stand before the script, all that
    follows is the script's. It runs with python, node, sh or bash by its suffix, else by its #! line or the template.
    It reaches nothing on the network unless --allow or --network says so.

    Example: terp run --template python-3.12 --allow api.example.com script.py --verbose
    """
    source = sys.stdin.buffer.read() if script == "-" else Path(script).read_bytes()
    name = "stdin" if script == "-" else Path(script).name
    path = f"/workspace/{name}"
    command = [*interpreter(name, source, template), path, *(args or [])]
    secrets = options.read_env(secret, "--secret")
    with new_sandbox(
        keep=keep,
        template=template,
        size=size,
        network=network,
        allow_domains=allow or None,
        timeout=timeout + LEASE_MARGIN_S,
        env=options.read_env(env),
        volume=volume,
    ) as sandbox:
        sandbox.files.write(path, source, mode=0o755)
        code = _pass_through(sandbox.exec_stream(shlex.join(command), timeout=timeout, secrets=secrets))
    raise typer.Exit(code)


def execute(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)],
    *,
    cwd: Annotated[str, typer.Option(help="Directory to run in.")] = "/workspace",
    timeout: Timeout = 60,
    env: options.Env = None,
    secret: options.SecretOption = None,
) -> None:
    """
    Run a command in a sandbox; output and exit code are passed through.

    One argument is a line for the shell; several reach the program as they are. Unless stdin is a terminal it is read
    to its end first, then handed to the command (UTF-8, 8 MiB at most).

    Example: terp exec sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB -- python -c 'print(6 * 7)'
    """
    line = options.command_line(command)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    variables, secrets = options.read_env(env), options.read_env(secret, "--secret")
    sandbox = Sandbox.get(sandbox_id)
    events = sandbox.exec_stream(line, cwd=cwd, env=variables, timeout=timeout, stdin=stdin, secrets=secrets)
    raise typer.Exit(_followed(sandbox, events, _Position()))


def attach(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID")],
    command_id: Annotated[str, typer.Argument(metavar="COMMAND", help="Its id, as terp exec tells it.")],
    *,
    offset: Annotated[int, typer.Option(min=0, help="Bytes of its output to leave out.")] = 0,
) -> None:
    """
    Follow a command that was started before; output and exit code are passed through.

    terp exec tells how, when it is interrupted, loses its connection or its sandbox is paused. The sandbox keeps a
    bounded part of the output.

    Example: terp attach sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB cmd_01J8ZQ4T9M5V3K7C2N6R1W0XYB --offset 4096
    """
    sandbox = Sandbox.get(sandbox_id)
    events = sandbox.attach(command_id, offset=offset)
    raise typer.Exit(_followed(sandbox, events, _Position(command_id, offset)))


def interpreter(name: str, source: bytes, template: str) -> Sequence[str]:
    """Return what a script is run with; nothing when it says so itself."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name, no path
    if suffix in INTERPRETERS:
        return [INTERPRETERS[suffix]]
    if source.startswith(b"#!"):
        return []
    return [next((program for start, program in DEFAULT_INTERPRETERS if template.startswith(start)), "sh")]


@contextlib.contextmanager
def new_sandbox(*, keep: bool, **options_of_create: Any) -> Iterator[Sandbox]:
    """A sandbox for this block alone, unless it is to be kept."""
    sandbox: Sandbox | None = None
    try:
        with interrupts.held(why="the sandbox is just being started and will be terminated"):
            sandbox = Sandbox.create(**options_of_create)
        if keep:
            complain(f"sandbox: {sandbox.id}")
        yield sandbox
    finally:
        if sandbox is not None and not keep:
            with interrupts.held(why="the sandbox is just being terminated"):
                _terminate(sandbox)


def _terminate(sandbox: Sandbox) -> None:
    """A failure is told and no more: what the script did is the result, and the lease ends the sandbox."""
    try:
        sandbox.terminate()
    except TerpError as error:
        complain(f"{sandbox.id} was not terminated and ends at {sandbox.expires_at:%H:%M:%S} UTC: {told(error)}")


@dataclass
class _Position:
    """Where in which command's output we are."""

    command_id: str = ""
    offset: int = 0

    def move(self, event: ExecEvent) -> None:
        if isinstance(event, Started):
            self.command_id = event.command_id
        elif isinstance(event, Stdout | Stderr):
            self.offset = event.offset + len(event.data)


def _followed(sandbox: Sandbox, events: Iterator[ExecEvent], position: _Position) -> int:
    try:
        return _pass_through(events, position)
    except (Interrupted, ConnectionFailed, RequestTimeout, StateConflict):
        if position.command_id:
            complain(
                "the command goes on as its sandbox does, until its timeout. To follow it:"
                f" terp attach {sandbox.id} {position.command_id} --offset {position.offset}"
            )
        raise


def _pass_through(events: Iterator[ExecEvent], position: _Position | None = None) -> int:
    code = 0
    try:
        for event in events:
            if position is not None:
                position.move(event)
            if isinstance(event, Stdout):
                write(sys.stdout, event.data)
            elif isinstance(event, Stderr):
                write(sys.stderr, event.data)
            elif isinstance(event, Exited):
                code = event.exit_code
    except ExecTimeout as error:
        complain(told(error))
        return TIMED_OUT
    except ExecKilled as error:
        complain(told(error))
        return 128 + (error.signal or 0)
    return code
