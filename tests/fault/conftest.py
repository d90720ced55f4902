"""Servers of one test each, for what must not be done to a shared one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.server import Server


@pytest.fixture
def own_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Make servers without --dev that the test starts, kills and starts again; afterwards nothing is left of them."""
    made: list[Server] = []

    def make(**options: object) -> Server:
        server = Server(tmp_path / f"server-{len(made)}", **{"dev": False, **options})  # type: ignore[arg-type]
        made.append(server)
        return server

    yield make
    for server in made:
        if server.running:
            for sandbox in server.list(status="running"):
                sandbox.terminate()
            server.stop()
            remains = server.host.remains()
            server.discard()
            assert not remains
        else:
            server.discard()
