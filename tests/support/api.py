"""The real app on a real socket, over a real store and a simulated node."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from support.couriers import SilentCourier
from support.simulated_node import SimulatedNode
from terpd.api import create_app
from terpd.api.connection import Connection
from terpd.api.pace import Pace
from terpd.api.previews.upgraded import Upgraded
from terpd.control.policy import Policy
from terpd.control.services import Services
from terpd.model.ports import Courier
from terpd.model.sandbox import Size
from terpd.sealing.keyring import KeyRing
from terpd.store import SqliteStore, open_sqlite

POLICY = Policy(
    region="local",
    region_label="Here",
    sizes={"small": Size("small", 1, 1024), "medium": Size("medium", 2, 4096)},
    max_concurrent=5,
    max_timeout_s=86400,
)
KEYS = KeyRing([bytes(32)])


@dataclass
class RunningApi:
    """`client` has a key of tenant `acme` with all scopes."""

    url: str
    client: httpx.AsyncClient
    node: SimulatedNode
    store: SqliteStore
    services: Services

    async def key(self, **options: object) -> str:
        """Make another key; options as of Keys.create."""
        secret, _ = await self.services.keys.create(**{"tenant": "acme", "name": "test", **options})  # type: ignore[arg-type]
        return secret

    async def create(self, **body: object) -> str:
        answer = await self.client.post("/v1/sandboxes", json={"template": "python-3.12", **body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def as_key(self, secret: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"authorization": f"Bearer {secret}"}, trust_env=False)


@contextlib.asynccontextmanager
async def running_api(
    directory: Path,
    *,
    pace: Pace | None = None,
    policy: Policy = POLICY,
    node: SimulatedNode | None = None,
    courier: Courier | None = None,
) -> AsyncIterator[RunningApi]:
    node = node or SimulatedNode()
    store = await open_sqlite(directory / "terp.db")
    services = Services(store, node, policy, KEYS, courier or SilentCourier())
    app = create_app(services, pace=pace)
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        lifespan="off",
        http=Connection,
        ws=Upgraded,
        server_header=False,
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    async with services.running():
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        secret, _ = await services.keys.create(
            tenant="acme",
            name="test",
            scopes={"sandboxes:read", "sandboxes:write", "metrics:read"},
            lifetime=dt.timedelta(days=1),
        )
        url = f"http://127.0.0.1:{port}"
        headers = {"authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
            yield RunningApi(url, client, node, store, services)
        await app.state.mcp.aclose()
        server.should_exit = True
        await serving
    await store.close()
