"""`terp cp`: one file into a sandbox or out of it, streamed."""

from __future__ import annotations

import os
import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from terp import Sandbox

_REMOTE = re.compile(r"(sbx_[0-9A-Za-z]+):(/.*)", re.DOTALL)


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC")],
    destination: Annotated[str, typer.Argument(metavar="DST")],
) -> None:
    """
    Copy a file into a sandbox or out of it.

    One side is ID:/path, the other a local path, or - for stdin or stdout. For directories use tar with terp exec.

    Example: terp cp report.csv sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB:/workspace/
    """
    origin, target = _REMOTE.fullmatch(source), _REMOTE.fullmatch(destination)
    if origin and not target:
        _download(Sandbox.get(origin[1]), origin[2], destination)
    elif target and not origin:
        _upload(Sandbox.get(target[1]), source, target[2])
    else:
        raise typer.BadParameter("one of SRC and DST must be in a sandbox, like ID:/workspace/a.txt, and only one")


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
