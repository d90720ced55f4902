"""The published client against three servers: a roomy one, one that is easily full, and one with low limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
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
