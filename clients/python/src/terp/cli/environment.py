"""`terp env`: variables of a sandbox, set while it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from terp import Sandbox
from terp.cli import options
from terp.cli.terminal import tell_ids

variables = typer.Typer(
    no_args_is_help=True,
    help="""
Set variables of a sandbox for all commands to come. They cannot be read back, and no snapshot has them.

Example: terp env set sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB API_KEY
""",
)


@variables.command("set")
def change(
    sandbox_id: options.SandboxId,
    given: Annotated[list[str], typer.Argument(metavar="NAME[=VALUE]", show_default=False)],
    *,
    as_json: options.AsJson = False,
) -> None:
    """
    Set variables, all or none, and print the names of all that are set. NAME alone passes your own on.

    Example: terp env set sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB DEBUG=1 API_KEY
    """
    values = options.read_env(given, "NAME[=VALUE]")
    tell_ids(Sandbox.get(sandbox_id).env.set(values), as_json=as_json)


@variables.command("unset")
def remove(
    sandbox_id: options.SandboxId,
    names: Annotated[list[str], typer.Argument(metavar="NAME", show_default=False)],
    *,
    as_json: options.AsJson = False,
) -> None:
    """
    Unset variables, and print the names of all that are still set.

    Example: terp env unset sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB DEBUG
    """
    tell_ids(Sandbox.get(sandbox_id).env.unset(*names), as_json=as_json)


@variables.command("ls")
def show(sandbox_id: options.SandboxId, *, as_json: options.AsJson = False) -> None:
    """
    Print the names of all that are set.

    Example: terp env ls sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    tell_ids(Sandbox.get(sandbox_id).env.list(), as_json=as_json)
