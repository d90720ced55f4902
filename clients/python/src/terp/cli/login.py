"""`terp login`: a server and a key kept for the next commands."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated

import typer

from terp import Sandbox, Terp
from terp.cli import options
from terp.cli.terminal import complain, tell_json

DEFAULT_BASE_URL = "http://127.0.0.1:7070"
_LINE = re.compile(r'(base_url|api_key) *= *("(?:[^"\\]|\\.)*") *', re.ASCII)


def login(
    *,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="The server's address.", show_default="asked for")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Keep a server's address and a key for the commands to come, in ~/.config/terp/config.toml.

    The key is asked for, or read from stdin when that is no terminal; it is tried before it is kept. TERP_API_KEY and
    TERP_BASE_URL, where they are set, come first; a kept key is never sent to another server than its own.

    Example: terp login --base-url https://terp.example.com
    """
    asked = sys.stdin.isatty()
    if base_url is None:
        known = os.environ.get("TERP_BASE_URL") or DEFAULT_BASE_URL
        base_url = typer.prompt("Server", default=known, err=True) if asked else known
    key = typer.prompt("API key", hide_input=True, err=True) if asked else sys.stdin.readline().strip()
    with Terp(api_key=key, base_url=base_url) as client:
        limits = Sandbox.limits(client=client)
        settings = client.settings
    path = config_path()
    keep(path, base_url=settings.base_url, api_key=settings.api_key)
    complain(f"kept in {path}")
    if as_json:
        tell_json(limits)


def use_kept(environ: MutableMapping[str, str]) -> None:
    """Put what was kept into *environ*, where that has nothing of its own. A file that cannot be read keeps nothing."""
    try:
        lines = config_path().read_text(encoding="utf-8").splitlines()
        kept = {found[1]: json.loads(found[2]) for line in lines if (found := _LINE.fullmatch(line))}
        base_url, key = kept["base_url"], kept["api_key"]
    except (OSError, KeyError, ValueError):
        return
    if environ.get("TERP_API_KEY"):
        return  # it may be another server's: nothing of the file goes with it
    if environ.setdefault("TERP_BASE_URL", base_url).rstrip("/") == base_url:
        environ["TERP_API_KEY"] = key


def keep(path: Path, *, base_url: str, api_key: str) -> None:
    """Replace the file whole; only its owner can read it at any moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = f"base_url = {json.dumps(base_url)}\napi_key = {json.dumps(api_key)}\n"
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".config.", delete=False) as file:  # mode 0600
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)  # noqa: PTH105
        except BaseException:
            Path(file.name).unlink()
            raise


def config_path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "terp" / "config.toml"
