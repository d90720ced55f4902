"""
The published client against four servers: a roomy one, one that is easily full, one with low limits, and one in a
network of its own, where the client is, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.enclave import Enclave, running_enclave
from support.orkestr_client import OrkestrClient, ensure_interpreter
from support.server import ALL_SCOPES, Server, StartServer


@pytest.fixture(scope="session")
def capped_server(start_server: StartServer) -> Server:
    settings = {
        "TERP_MACHINES_CAP": "4",
        "TERP_MAX_SNAPSHOTS": "1",
        "TERP_MAX_NAMED_SNAPSHOTS": "1",
        "TERP_MAX_RUNNING_LIFETIME_S": "900",
        "TERP_MAX_PAUSED_S": "3600",
    }
    return start_server("capped", settings=settings)


@pytest.fixture(scope="session")
def client(
    server: Server, tight_server: Server, capped_server: Server, pytestconfig: pytest.Config
) -> Iterator[OrkestrClient]:
    """The client with a running sandbox, keys of several powers, and the other servers' addresses."""
    cache: Path = pytestconfig.cache.mkdir("orkestr")
    python = ensure_interpreter(cache)
    with server.create("debian-12", timeout=3600) as shared:
        context = {
            "sandbox": shared.id,
            "keys": {
                "read": server.create_key("sandboxes:read"),
                "write": server.create_key("sandboxes:write"),
                "stranger": server.create_key(*ALL_SCOPES, tenant="stranger"),
            },
            "tight": {
                "url": tight_server.url,
                "tenants": [tight_server.create_key(*ALL_SCOPES, tenant=name) for name in ("one", "two", "three")],
            },
            "capped": {"base_url": capped_server.url, "api_key": capped_server.api_key},
        }
        yield OrkestrClient(python, server.url, server.api_key, context)


@pytest.fixture(scope="session")
def enclave() -> Iterator[Enclave]:
    with running_enclave() as enclave:
        yield enclave


@pytest.fixture(scope="session")
def enclosed_client(start_server: StartServer, enclave: Enclave, pytestconfig: pytest.Config) -> OrkestrClient:
    """The client beside a server whose sandboxes can reach a few servers and nothing else there is."""
    server = start_server("enclosed", settings={"TERP_MACHINES_CAP": "3", **enclave.settings}, prefix=enclave.prefix)
    python = ensure_interpreter(pytestconfig.cache.mkdir("orkestr"))
    context = {"server": {"base_url": server.url, "api_key": server.api_key}}
    return OrkestrClient(python, server.url, server.api_key, context, prefix=enclave.prefix)
