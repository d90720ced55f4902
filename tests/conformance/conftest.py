"""The published client against two servers: a roomy one, and a tight one that is easily full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.orkestr_client import OrkestrClient, ensure_interpreter
from support.server import ALL_SCOPES, Server


@pytest.fixture(scope="session")
def client(server: Server, tight_server: Server, pytestconfig: pytest.Config) -> Iterator[OrkestrClient]:
    """The client with a running sandbox, keys of several powers, and the tight server's address."""
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
        }
        yield OrkestrClient(python, server.url, server.api_key, context)
