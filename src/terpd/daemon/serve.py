"""
The server's life: lock the data directory, open store and node, adopt what runs, serve, and let go in order.

    lock ─► keys ─► store (migrated) ─► node opened (adopts, reaps) ─► reconciled ─► serving ─► ready line
    SIGTERM ─► no new requests ─► creates drained ─► [--dev: all sandboxes terminated] ─► node closed ─► store closed

Sandboxes that run are left running unless `--dev`; the next start adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from terpd.api.app import create_app
from terpd.api.connection import Connection
from terpd.api.previews.upgraded import Upgraded
from terpd.control.keys import SCOPES
from terpd.control.services import Services
from terpd.courier.courier import PublicCourier
from terpd.daemon.config import Config
from terpd.daemon.data_dir import check_node, only_one
from terpd.daemon.node import open_node
from terpd.daemon.server_keys import load_keys, warn_of_missing
from terpd.model.ports import Change
from terpd.model.sandbox import EndReason, Status
from terpd.node.jail.process import become_parent_of_orphans
from terpd.store import open_sqlite

log = structlog.get_logger()

_GRACE_S = 5  # for requests under way when the server stops; streams are cut then
_DEV_KEY_LIFETIME = dt.timedelta(days=30)


async def serve(config: Config, *, dev: bool) -> None:
    """
    Serve until SIGTERM or SIGINT.

    Args:
        dev: Create a key at start and print it in the ready line; terminate every sandbox at the end.

    Raises:
        TerpError: The data directory is in use, or store or node cannot be opened.
        OSError: The address cannot be bound.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # For all of the server's life: also a signal that comes while it opens or closes ends it in order.
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    become_parent_of_orphans()
    with only_one(config.data_dir), _listen(config.host, config.port) as sock:
        check_node(config.data_dir, config.node_id)
        keys = load_keys(config)
        courier = PublicCourier(config.upstream(), anywhere=config.webhook_allow_private)
        store = await open_sqlite(config.database)
        try:
            host, supervisor = await open_node(config)
            services = Services(store, host, config.policy(), keys, courier)
            await supervisor.open()
            try:
                await warn_of_missing(store, keys, config.node_id)
                async with services.running():
                    await _answer(services, sock, config, stop, dev=dev)
                if dev:
                    await _terminate_all(services)
            finally:
                await supervisor.close(stop_machines=dev)
                await services.egress.drain()  # closing the node ended what was connected
        finally:
            await store.close()
            courier.close()


class _Server(uvicorn.Server):
    """Prints the ready line once it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: dict[str, str]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`: uvicorn would send itself the signal again, and die of it before all is closed."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(json.dumps(self._ready, separators=(",", ":")), flush=True)  # noqa: T201  the contract with scripts


async def _answer(services: Services, sock: socket.socket, config: Config, stop: asyncio.Event, *, dev: bool) -> None:
    port = sock.getsockname()[1]
    shown = f"[{config.host}]" if ":" in config.host else config.host
    ready = {"event": "ready", "url": f"http://{shown}:{port}"}
    if dev:
        secret, _ = await services.keys.create(tenant="default", name="dev", scopes=SCOPES, lifetime=_DEV_KEY_LIFETIME)
        ready["api_key"] = secret
    app = create_app(services)
    settings = uvicorn.Config(
        app,
        loop="none",  # runs in ours
        http=Connection,
        ws=Upgraded,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(settings, ready)

    async def stop_serving() -> None:
        await stop.wait()
        await app.state.mcp.aclose()  # its streams would hold the server up
        server.should_exit = True

    stopping = asyncio.create_task(stop_serving())
    try:
        await server.serve(sockets=[sock])
    finally:
        stopping.cancel()


async def _terminate_all(services: Services) -> None:
    """Record that the server took its sandboxes with it; the machines go when the node closes."""
    for sandbox in await services.store.live_sandboxes(services.node.node_id):
        now = dt.datetime.now(dt.UTC)
        change = Change(reason=EndReason.SHUTDOWN)
        await services.store.set_status(sandbox.id, Status.TERMINATED, at=now, change=change)


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Bind before anything is opened, so that a taken port fails at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        yield sock
