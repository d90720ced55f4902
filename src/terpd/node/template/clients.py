"""
Where the package clients of a template would fetch from, asked of those clients as they are configured there.

The egress policy's default list is made of these hosts, so that a mirror in a template's configuration is what its
sandboxes may reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from terpd.node.template.chroot import run_in
from terpd.node.template.command import BuildFailed

_APT = ("sh", "-c", 'apt-get update --print-uris | cut -d "\'" -f 2')  # lines like: 'address' file size
_NPM = ("npm", "config", "get", "registry")
# pip knows its default index and the host of its files only by itself; `pip config` lists what is set besides.
_PIP_QUESTION = """
import subprocess, sys
from pip._internal.models.index import PyPI
said = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True)
index = said.stdout.decode().strip()
print(index or f"{PyPI.simple_url} https://{PyPI.file_storage_domain}")
"""
_PIP = ("python3", "-c", _PIP_QUESTION)


def package_hosts(tree: Path) -> Sequence[str]:
    """Host names of the template's apt, pip and npm, sorted; a client that is not installed adds none."""
    clients = {"usr/bin/apt-get": _APT, "usr/local/bin/pip3": _PIP, "usr/local/bin/npm": _NPM}
    said = [run_in(tree, question).decode() for path, question in clients.items() if (tree / path).exists()]
    return hosts(line for text in said for line in text.split())


def hosts(addresses: Iterable[str]) -> Sequence[str]:
    """
    The distinct host names in *addresses*, sorted.

    Raises:
        BuildFailed: One is no address with a host: a client answers in a way this code does not know.
    """
    found = set()
    for address in addresses:
        name = urlsplit(address).hostname
        if not name:
            raise BuildFailed(f"A package client of the template names no host in {address!r}")
        found.add(name)
    return sorted(found)
