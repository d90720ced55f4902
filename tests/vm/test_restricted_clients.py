"""
Package clients as a user has them, in sandboxes that reach what these clients are configured for and no more.

The only tests that reach beyond this host: to where its own pip and npm are configured to fetch from.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.server import TEMPLATES_HOME, Server, StartServer
from support.wait import eventually
from terp import Sandbox

pytestmark = pytest.mark.vm

_PYTHON, _NODE = "python-3.12-bare", "node-22"
_TIMEOUT_S = 400


def _package_hosts(template: str) -> list[str]:
    """As the build of the template asked its clients."""
    home = Path(os.environ.get("TERP_HOME", TEMPLATES_HOME))
    (record,) = (home / "templates" / template / "current").glob("*.json")
    hosts: list[str] = json.loads(record.read_text())["package_hosts"]
    return hosts


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    """Of an operator whose package mirrors, if this host has some, may have private addresses."""
    addresses = set()
    for name in {*_package_hosts(_PYTHON), *_package_hosts(_NODE)}:
        try:
            found = socket.getaddrinfo(name, 443, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            pytest.skip(f"this host does not know where its package clients fetch from: {name}: {error}")
        addresses |= {f"{each[4][0]}/32" for each in found}
    return start_server("restricted", settings={"TERP_ALLOW_ADDRESSES": ",".join(sorted(addresses))})


_PIP = (
    "pip install --no-cache-dir --target /workspace/site idna && PYTHONPATH=/workspace/site"
    " python3 -c 'import idna; print(idna.encode(\"b\\u00fccher.example\").decode())'"
)
_NPM = (
    "mkdir -p /workspace/app && cd /workspace/app && npm install --no-audit left-pad"
    " && node -e 'console.log(require(\"left-pad\")(7, 3, 0))'"
)


@pytest.mark.parametrize(
    ("template", "command", "shows"),
    [pytest.param(_PYTHON, _PIP, "xn--bcher-kva.example", id="pip"), pytest.param(_NODE, _NPM, "007", id="npm")],
)
def test_install_in_a_restricted_sandbox(template: str, command: str, shows: str, server: Server) -> None:
    """A package is fetched, verified and runs; all that was let through is on record as one of the clients' hosts."""
    with server.create(template, network="restricted", timeout=_TIMEOUT_S * 2) as sandbox:
        done = sandbox.exec(command, timeout=_TIMEOUT_S)
        assert done.exit_code == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == shows

        blocked = sandbox.exec("curl -sS --max-time 20 https://other.example/", timeout=_TIMEOUT_S)
        assert blocked.exit_code != 0

        eventually(lambda: "other.example" in _names(sandbox, "blocked"), what="the refusal is on record")
        passed = _names(sandbox, "allowed")

    assert passed
    assert passed <= set(_package_hosts(template))


def _names(sandbox: Sandbox, decision: str) -> set[str | None]:
    """Of its connections on record."""
    return {each.name for each in sandbox.egress(decision=decision)}
