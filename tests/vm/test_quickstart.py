"""The first lines that a reader tries, of the README and of the quickstart page, in all their ways."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from support.server import Server
from terp.cli.mcp import PATH

pytestmark = pytest.mark.vm

TREE = Path(__file__).resolve().parents[2]
JS = TREE / "clients/js"
VERSION = re.compile(r"Python 3\.12\.\d+")


def readme(number: int, language: str) -> str:
    """A block of the README, the first is 0, on the smaller template with the same interpreter."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (TREE / "README.md").read_text(), re.DOTALL)
    return str(blocks[number]).replace("python-3.12", "python-3.12-bare")


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


@pytest.mark.parametrize("program", [readme(0, "ts"), tab("JavaScript")], ids=["readme", "quickstart"])
def test_javascript(server: Server, tmp_path: Path, program: str) -> None:
    """Compiled for a Node that has no `await using` yet, against the package as it is shipped."""
    subprocess.run([str(TREE / "tools/setup"), "js"], check=True)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/terp").symlink_to(JS)
    (tmp_path / "program.mts").write_text(program)
    esbuild = [str(JS / "node_modules/.bin/esbuild"), "program.mts", "--format=esm", "--target=node18"]
    run([*esbuild, "--outfile=program.mjs", "--log-level=warning"], server, tmp_path)

    assert VERSION.match(run(["node", "program.mjs"], server, tmp_path))


@pytest.mark.parametrize("line", [readme(0, "sh"), tab("Command line")], ids=["readme", "quickstart"])
def test_command_line(server: Server, tmp_path: Path, line: str) -> None:
    (tmp_path / "script.py").write_text("print(6 * 7)")

    assert run(["bash", "-c", line], server, tmp_path) == "42\n"


def test_http(server: Server, tmp_path: Path) -> None:
    answer = json.loads(run(["bash", "-c", tab("HTTP")], server, tmp_path))

    assert answer["status"] == "running"
    server.get(answer["id"]).terminate()


@pytest.mark.parametrize("line", [readme(1, "sh"), tab("MCP")], ids=["readme", "quickstart"])
async def test_mcp(server: Server, line: str) -> None:
    """What the line tells its program, transport, address and header, is all that a client needs."""
    *program, transport, name, url, flag, header = shlex.split(line.replace("\\\n", ""))
    assert (program, transport, name, flag) == (["claude", "mcp", "add", "--transport"], "http", "terp", "--header")
    field, _, value = header.partition(": ")
    headers = {field: value.replace("$TERP_API_KEY", server.api_key)}

    http = httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60)
    address = url.replace("http://127.0.0.1:7070", server.url)
    async with http, Client(streamable_http_client(address, http_client=http)) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}

    assert {"create_sandbox", "run_shell", "run_code", "terminate_sandbox"} <= tools


def test_mcp_by_curl(server: Server, tmp_path: Path) -> None:
    """The address that the other clients of that page are given answers, to no more than curl."""
    asked = tab("curl", "docs/reference/mcp.md")
    assert PATH in asked

    answer = run(["bash", "-c", asked.replace("http://127.0.0.1:7070", server.url)], server, tmp_path)

    assert '"serverInfo"' in answer
    assert "sandboxes" in answer
