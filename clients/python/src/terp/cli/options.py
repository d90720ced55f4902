"""Options that several commands have."""

from __future__ import annotations

import os
import shlex
from typing import Annotated

import typer

Template = Annotated[str, typer.Option("--template", "-t", help="What the sandbox starts from.")]
Size = Annotated[str, typer.Option(help="small, medium or large, as far as the server has them.")]
NewTemplate = Annotated[
    str | None,
    typer.Option("--template", "-t", help="What the sandbox starts from.", show_default="python-3.12"),
]
NewSize = Annotated[
    str | None,
    typer.Option("--size", help="small, medium or large, as far as the server has them.", show_default="small"),
]
Network = Annotated[
    str | None,
    typer.Option(
        help="off: no network. restricted: HTTPS to a list of hosts. open: all public addresses.",
        show_default="off, or restricted with --allow",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        help="A host that restricted may reach, names below it included, in place of the server's default list."
        " Repeatable.",
        metavar="HOST",
    ),
]
Lease = Annotated[int, typer.Option(help="Seconds until it ends by itself.")]
OnTimeout = Annotated[str, typer.Option(help="What happens then: kill, or pause.")]
AutoResume = Annotated[
    bool, typer.Option("--auto-resume", help="While it is paused, a command or a file call resumes it.")
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", help="KEY=VALUE, or KEY to pass your own on. Repeatable.", metavar="KEY[=VALUE]"),
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        help="As --env, but for this command alone and kept nowhere. NAME takes it from your own environment, where no"
        " process list shows it. Repeatable.",
        metavar="NAME[=VALUE]",
    ),
]
Volume = Annotated[
    str | None, typer.Option(help="Name or id of a volume to have at /persist; one of a new name is made.")
]
SandboxId = Annotated[str, typer.Argument(metavar="ID", help="Of a sandbox.")]
Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", help="A label. Repeatable.", metavar="KEY=VALUE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]


def read_env(pairs: list[str] | None, option: str = "--env") -> dict[str, str]:
    """
    Raises:
        typer.BadParameter: A name stands alone and is not in this environment.
    """
    env = {}
    for pair in pairs or []:
        name, given, value = pair.partition("=")
        if not given:
            if name not in os.environ:
                raise typer.BadParameter(f"{name} is not set here; write {name}=VALUE", param_hint=option)
            value = os.environ[name]
        env[name] = value
    return env


def command_line(arguments: list[str]) -> str:
    """
    One argument is a line for the shell; several reach the program as they are.

    Raises:
        typer.BadParameter: There is none.
    """
    words = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not words:
        raise typer.BadParameter("a command is missing", param_hint="COMMAND")
    return words[0] if len(words) == 1 else shlex.join(words)


def read_metadata(pairs: list[str] | None) -> dict[str, str]:
    """
    Raises:
        typer.BadParameter: One has no `=`.
    """
    metadata = {}
    for pair in pairs or []:
        key, given, value = pair.partition("=")
        if not given:
            raise typer.BadParameter(f"write KEY=VALUE, not: {pair}", param_hint="--metadata")
        metadata[key] = value
    return metadata
