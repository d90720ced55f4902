"""The stores under test, of records and of artifacts; a further engine is a further parameter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from support.artifacts import FilesShop, S3Shop, Shop
from support.cut_proxy import CutProxy

from terpd.model.ids import new_state_id
from terpd.store import SqliteStore, open_sqlite


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "terp.db")
    yield store
    await store.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def s3(s3_server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Shop]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    for variable in ("AWS_PROFILE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    host, port = s3_server
    with CutProxy(s3_server) as proxy:
        yield S3Shop(f"http://{host}:{port}", proxy, tmp_path / "artifacts", f"bucket-{new_state_id()[5:].lower()}")


@pytest.fixture(params=["files", "s3"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    if request.param == "files":
        return FilesShop(tmp_path / "artifacts")
    shop: S3Shop = request.getfixturevalue("s3")
    return shop
