"""The first lines that a reader tries, from the quickstart page, in all five ways."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.server import Server
from terp.cli.mcp import PATH

pytestmark = pytest.mark.vm

TREE = Path(__file__).resolve().parents[2]
JS = TREE / "clients/js"
VERSION = re.compile(r"Python 3\.12\.\d+")


def tab(name: str, page: str = "docs/quickstart.md") -> str:
    """The code in a tab of the page, on the smaller template with the same interpreter."""
    text = (TREE / page).read_text()
    (code,) = re.findall(rf'^=== "{name}"\n\n    ```\w+\n(.*?)^    ```$', text, re.MULTILINE | re.DOTALL)
    return textwrap.dedent(code).replace("python-3.12", "python-3.12-bare")


def run(argv: list[str], server: Server, directory: Path) -> str:
    """What it prints, started with a server's address and a key, and with our commands on the path."""
    environ = {
        **os.environ,
        "TERP_BASE_URL": server.url,
        "TERP_API_KEY": server.api_key,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(argv, env=environ, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python(server: Server, tmp_path: Path) -> None:
    assert VERSION.match(run([sys.executable, "-c", tab("Python")], server, tmp_path))


def test_javascript(server: Server, tmp_path: Path) -> None:
    """Compiled for a Node that has no `await using` yet, against the package as it is shipped."""
    subprocess.run([str(TREE / "tools/setup"), "js"], check=True)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/terp").symlink_to(JS)
    (tmp_path / "program.mts").write_text(tab("JavaScript"))
    esbuild = [str(JS / "node_modules/.bin/esbuild"), "program.mts", "--format=esm", "--target=node18"]
    run([*esbuild, "--outfile=program.mjs", "--log-level=warning"], server, tmp_path)

    assert VERSION.match(run(["node", "program.mjs"], server, tmp_path))


def test_command_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print(6 * 7)")

    assert run(["bash", "-c", tab("Command line")], server, tmp_path) == "42\n"


def test_http(server: Server, tmp_path: Path) -> None:
    answer = json.loads(run(["bash", "-c", tab("HTTP")], server, tmp_path))

    assert answer["status"] == "running"
    server.get(answer["id"]).terminate()


def test_mcp_by_curl(server: Server, tmp_path: Path) -> None:
    """The address that the other clients of that page are given answers, to no more than curl."""
    asked = tab("curl", "docs/reference/mcp.md")
    assert PATH in asked
    assert PATH in tab("MCP")

    answer = run(["bash", "-c", asked.replace("http://127.0.0.1:7070", server.url)], server, tmp_path)

    assert '"serverInfo"' in answer
    assert "sandboxes" in answer
