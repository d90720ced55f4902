"""`terp presign`, `terp watch`: addresses of files, and what changes."""

from __future__ import annotations

from typing import Annotated

import typer

from terp import Sandbox
from terp.cli import options
from terp.cli.terminal import tell, tell_json, tell_json_line
from terp.cli.transfer import remote_path

Remote = Annotated[str, typer.Argument(metavar="ID:/PATH", help="A path in a sandbox.")]


def presign(
    path: Remote,
    *,
    upload: Annotated[bool, typer.Option("--upload", help="For writing it with PUT, instead of reading it.")] = False,
    expires_in: Annotated[int, typer.Option("--expires-in", min=60, max=3600, help="Seconds that it holds.")] = 600,
    as_json: options.AsJson = False,
) -> None:
    """
    Print an address at which anybody who has it reads, or with --upload writes, one file of a sandbox.

    Example: terp presign --upload sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB:/workspace/data.csv
    """
    sandbox_id, remote = remote_path(path)
    files = Sandbox.get(sandbox_id).files
    make = files.presign_upload if upload else files.presign_download
    presigned = make(remote, expires_in=expires_in)
    if as_json:
        tell_json(presigned)
    else:
        tell(presigned.url)


def watch(
    path: Remote,
    *,
    recursive: Annotated[bool, typer.Option(help="The directories below it, too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object a line.")] = False,
) -> None:
    """
    Print what changes in a directory of a sandbox, until interrupted or the directory is gone.

    The first line is ready: from then on nothing is missed. After overflow something was.

    Example: terp watch sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB:/workspace
    """
    sandbox_id, remote = remote_path(path)
    for change in Sandbox.get(sandbox_id).files.watch(remote, recursive=recursive):
        if as_json:
            tell_json_line(change)
        else:
            moved = f"  from {change.moved_from}" if change.moved_from else ""
            tell(f"{change.kind:8}  {change.path}{moved}".rstrip())
