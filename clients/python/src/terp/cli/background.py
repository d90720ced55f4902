"""`terp start`, `terp ps`, `terp logs`, `terp kill`: commands in the background."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from terp import Command, ExecEvent, ExecKilled, Exited, LogDropped, Sandbox, Stdout, TerpError
from terp.cli import options
from terp.cli.terminal import complain, tell, tell_json, tell_table, told, write

CommandId = Annotated[str, typer.Argument(metavar="COMMAND", help="Its id, as terp start and terp ps tell it.")]
COMMAND_WIDTH = 60


def start(
    sandbox_id: options.SandboxId,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)],
    *,
    cwd: Annotated[str, typer.Option(help="Directory to run in.")] = "/workspace",
    env: options.Env = None,
    secret: options.SecretOption = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Start a command in the background and print its id.

    It runs until it ends, is killed, or its sandbox ends. One argument is a line for the shell; several reach the
    program as they are.

    Example: terp start sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB -- python -m http.server 8000
    """
    line = options.command_line(command)
    variables, secrets = options.read_env(env), options.read_env(secret, "--secret")
    started = Sandbox.get(sandbox_id).start(line, cwd=cwd, env=variables, secrets=secrets)
    if as_json:
        tell_json(started.info)
    else:
        tell(started.id)


def show(sandbox_id: options.SandboxId, *, as_json: options.AsJson = False) -> None:
    """
    List the background commands of a sandbox, ended ones included.

    Example: terp ps sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    found = Sandbox.get(sandbox_id).commands()
    if as_json:
        tell_json([command.info for command in found])
    else:
        tell_table(("ID", "STATUS", "PID", "STARTED", "COMMAND"), [_row(command) for command in found])


def logs(
    sandbox_id: options.SandboxId,
    command_id: CommandId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the command ends.")] = False,
    offset: Annotated[
        int | None, typer.Option(min=0, help="Bytes to leave out.", show_default="what is not kept any more")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one page of it as JSON.")] = False,
) -> None:
    """
    Print what a background command has written, stdout and stderr in that order.

    With --follow the exit code is the command's own, 1 when it was killed. The sandbox keeps the last 64 MiB.

    Example: terp logs sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB cmd_01J8ZQ4T9M5V3K7C2N6R1W0XYB -f
    """
    if follow and as_json:
        raise typer.BadParameter("it writes one page; give only one of --json and --follow", param_hint="--json")
    command = Sandbox.get(sandbox_id).command(command_id)
    if as_json:
        tell_json(command.logs(offset))
        return
    if follow:
        raise typer.Exit(_follow(command, offset))
    page = command.logs(offset)
    write(sys.stdout, page.content.encode())
    while page.truncated:
        page = command.logs(page.next_offset)
        write(sys.stdout, page.content.encode())


def kill(
    sandbox_id: options.SandboxId,
    command_ids: Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)],
    *,
    as_json: options.AsJson = False,
) -> None:
    """
    End background commands and all they started: SIGTERM, 2 s later SIGKILL.

    Example: terp kill sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB cmd_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    sandbox = Sandbox.get(sandbox_id)
    killed = []
    for command_id in command_ids:
        try:
            command = sandbox.command(command_id)
            command.kill()
        except TerpError as error:  # noqa: PERF203 - the others are still to go
            complain(f"{command_id}: {told(error)}")
        else:
            killed.append(command.info)
            if not as_json:
                tell(command.id)
    if as_json:
        tell_json(killed)
    if len(killed) < len(command_ids):
        raise typer.Exit(1)


def _follow(command: Command, offset: int | None) -> int:
    code = 0
    try:
        for event in _from(command, offset):
            if isinstance(event, Stdout):
                write(sys.stdout, event.data)
            elif isinstance(event, Exited):
                code = event.exit_code
    except ExecKilled as error:
        complain(told(error))
        return 128 + error.signal if error.signal else 1
    return code


def _from(command: Command, offset: int | None) -> Iterator[ExecEvent]:
    """Without an offset, from the first that is kept."""
    events = command.stream(offset or 0)
    try:
        first = next(events, None)
    except LogDropped as error:
        if offset is not None or error.first_offset is None:
            raise
        return command.stream(error.first_offset)
    return iter(()) if first is None else itertools.chain([first], events)


def _row(command: Command) -> tuple[str, ...]:
    status = command.status if command.exit_code is None else f"{command.status} {command.exit_code}"
    started = "-" if command.started_at is None else f"{command.started_at:%Y-%m-%d %H:%M:%S} UTC"
    line = command.command
    short = line if len(line) <= COMMAND_WIDTH else f"{line[: COMMAND_WIDTH - 1]}…"
    return command.id, status, str(command.pid or "-"), started, short
