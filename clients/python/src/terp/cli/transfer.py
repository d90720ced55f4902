"""`terp cp`: a file or a directory into a sandbox or out of it, streamed."""

from __future__ import annotations

import os
import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from terp import Sandbox, Transfer
from terp.cli.terminal import complain, tell_json

_REMOTE = re.compile(r"(sbx_[0-9A-Za-z]+):(/.*)", re.DOTALL)


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC")],
    destination: Annotated[str, typer.Argument(metavar="DST")],
    *,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Copy a directory with all it holds.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With -r: write what was copied, and left out, as JSON.")
    ] = False,
) -> None:
    """
    Copy a file, or with -r a directory, into a sandbox or out of it.

    One side is ID:/path, the other a local path, or - for stdin or stdout. As with cp, a directory that exists
    already gets the other one inside. Nothing is written outside of the local directory: links that lead out of it are
    left out.

    Example: terp cp report.csv sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB:/workspace/

    Example: terp cp -r sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB:/workspace/out results
    """
    origin, target = _REMOTE.fullmatch(source), _REMOTE.fullmatch(destination)
    if as_json and not recursive:
        raise typer.BadParameter("it goes with -r", param_hint="--json")
    if origin and not target:
        if recursive:
            _tell(_download_directory(Sandbox.get(origin[1]), origin[2], Path(destination)), as_json=as_json)
        else:
            _download(Sandbox.get(origin[1]), origin[2], destination)
    elif target and not origin:
        if recursive:
            _tell(_upload_directory(Sandbox.get(target[1]), Path(source), target[2]), as_json=as_json)
        else:
            _upload(Sandbox.get(target[1]), source, target[2])
    else:
        raise typer.BadParameter("one of SRC and DST must be in a sandbox, like ID:/workspace/a.txt, and only one")


def remote_path(text: str) -> tuple[str, str]:
    """
    Return the sandbox's id and the path in it.

    Raises:
        typer.BadParameter: It has not that form.
    """
    found = _REMOTE.fullmatch(text)
    if not found:
        raise typer.BadParameter("write it like ID:/workspace/a.txt", param_hint="ID:/PATH")
    return found[1], found[2]


def _upload_directory(sandbox: Sandbox, local: Path, path: str) -> Transfer:
    if _is_directory(sandbox, path):
        path = posixpath.join(path, local.resolve().name)
    return sandbox.files.upload_dir(local, path)


def _download_directory(sandbox: Sandbox, path: str, local: Path) -> Transfer:
    if local.is_dir():
        local /= posixpath.basename(posixpath.normpath(path))
    return sandbox.files.download_dir(path, local)


def _tell(transfer: Transfer, *, as_json: bool) -> None:
    for name in transfer.skipped:
        complain(f"left out: {name}")
    if as_json:
        tell_json(transfer)
    else:
        complain(f"copied {transfer.files} entries, {transfer.size} bytes")


def _upload(sandbox: Sandbox, local: str, path: str) -> None:
    if local == "-":
        sandbox.files.write(path, sys.stdin.buffer)
        return
    with Path(local).open("rb") as file:
        if path.endswith("/") or _is_directory(sandbox, path):
            path = posixpath.join(path, Path(local).name)
        sandbox.files.write(path, file, mode=os.fstat(file.fileno()).st_mode & 0o777)


def _download(sandbox: Sandbox, path: str, local: str) -> None:
    if local == "-":
        for chunk in sandbox.files.read_stream(path):
            sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        return
    target = Path(local)
    if target.is_dir():
        target /= posixpath.basename(path.rstrip("/"))
    mode = sandbox.files.stat(path).mode & 0o777
    # Beside the target and renamed at the end: a download that breaks off leaves the old file as it was.
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            for chunk in sandbox.files.read_stream(path):
                file.write(chunk)
            file.flush()
            os.chmod(file.name, mode & ~_umask())  # noqa: PTH101 - a name, no Path
            os.replace(file.name, target)  # noqa: PTH105
        except BaseException:
            Path(file.name).unlink()
            raise


def _is_directory(sandbox: Sandbox, path: str) -> bool:
    return sandbox.files.exists(path) and sandbox.files.stat(path).is_dir


def _umask() -> int:
    """The only way to ask is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
