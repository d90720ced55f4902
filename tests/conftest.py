"""
Fixtures for tests with real machines. They climb a ladder: server → sandbox.

    server         one for the whole run, without warm machines
    tight_server   room for two machines, one live sandbox a tenant
    sandbox        a fresh debian-12 one on `server`
    shared         one per module, for tests that do not disturb each other

When the run ends, every server is stopped as an operator would, and whatever it left on the host fails the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # tests that need no server need neither the client nor what it imports
    from support.server import Server, StartServer
    from terp import Sandbox

_LOG_TAIL_BYTES = 6000
_SERVERS: pytest.StashKey[list[Server]] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the end of the servers' logs with a failure."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]  # the plugin API types it as a result of anything
        for server in item.config.stash.get(_SERVERS, []):
            if server.log.exists():
                tail = server.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
                report.sections.append((f"end of {server.log}", tail))  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session")
def start_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """
    Start servers that end with the run, and must leave nothing on the host.

    The name is part of the directory; options are those of `Server`.
    """
    from support.server import Server, ensure_templates

    ensure_templates()
    started: list[Server] = request.config.stash.setdefault(_SERVERS, [])

    def start(name: str, **options: object) -> Server:
        server = Server(tmp_path_factory.mktemp(name), **options)  # type: ignore[arg-type]  # passed through
        started.append(server)
        return server.start()

    yield start
    remains = {}
    for server in started:
        try:
            if server.running:
                server.stop()
            remains[str(server.data_dir)] = server.host.remains()
        finally:
            server.discard()
    assert not any(remains.values()), f"left on the host: {remains}"


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Server:
    return start_server("server", settings={"TERP_MACHINES_CAP": "8", "TERP_WEBHOOK_ALLOW_PRIVATE": "1"})


@pytest.fixture(scope="session")
def tight_server(start_server: StartServer) -> Server:
    return start_server("tight", settings={"TERP_MACHINES_CAP": "2", "TERP_MAX_CONCURRENT": "1"})


@pytest.fixture
def sandbox(server: Server) -> Iterator[Sandbox]:
    with server.create("debian-12") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Sandbox]:
    with server.create("debian-12", timeout=3600) as sandbox:
        yield sandbox
