"""Python packages put into a root file system from outside it, each file checked against its recorded hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from terpd.node.template import cpython
from terpd.node.template.command import run

# Wheels for at most the C library of Debian 12, the oldest system that templates are made of.
_PLATFORM = "x86_64-manylinux_2_36"


def install(tree: Path, requirements: str, series: str) -> None:
    """
    Install hash-locked *requirements* under /usr/local of *tree*, which has a CPython *series*.

    Only wheels: nobody's set-up code runs on the host.

    Raises:
        BuildFailed: A package is not to be had, or is not the one that was locked.
    """
    interpreter = cpython.ensure_interpreter(series)
    fetch(requirements, interpreter.executable, "--prefix", tree / "usr/local")
    fix_scripts(tree / "usr/local/bin", interpreter)
    cpython.byte_compile(tree, series)


def install_modules(tree: Path, modules: Mapping[str, str], series: str) -> None:
    """Put Python packages of our own, given as contents by path, beside those that were installed."""
    for name, content in modules.items():
        path = tree / f"usr/local/lib/python{series}/site-packages" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    cpython.byte_compile(tree, series)


def fetch(requirements: str, python: Path, place: str, directory: Path) -> None:
    """
    Unpack locked wheels.

    Args:
        requirements: The lines of a hash-locked file.
        python: The interpreter, or one of its series, that they are for.
        place: `--prefix` lays them out as for that interpreter, `--target` puts them side by side.
        directory: Where; made if it is not there.
    """
    run(
        [
            *(cpython.find_uv(), "pip", "install", "--quiet", "--no-config", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--python-platform", _PLATFORM, "--python", python),
            # A hard link into uv's cache would let a write in the tree change the cache.
            *("--link-mode", "copy", place, directory, "--requirements", "-"),
        ],
        timeout_s=1800,
        stdin=requirements.encode(),
    )


def fix_scripts(directory: Path, interpreter: cpython.Interpreter) -> None:
    """Let scripts start the interpreter of the guest, not the one on the host that unpacked them."""
    old = f"#!{interpreter.executable}".encode()
    new = f"#!/usr/local/bin/python{interpreter.series}".encode()
    for path in directory.iterdir():
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if content.startswith(old):
                path.write_bytes(new + content[content.index(b"\n") :])
