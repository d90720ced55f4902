"""Where the server's keys come from, and what happens when they are missing or wrong."""

from __future__ import annotations

import base64
import datetime as dt
import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from terpd.daemon.config import Config, ConfigError
from terpd.daemon.server_keys import load_keys, warn_of_missing
from terpd.model.ids import TenantId, new_sandbox_id, new_state_id
from terpd.model.sandbox import Network, Size
from terpd.model.snapshot import Snapshot, SnapshotStatus
from terpd.sealing.keyring import KeyRing, new_server_key, server_key_id
from terpd.store import open_sqlite


def test_the_first_start_makes_a_key(tmp_path: Path) -> None:
    """Readable by the server alone, the same at the next start, and the log says that it wants a backup."""
    config = Config(data_dir=tmp_path / "data")

    with capture_logs() as logs:
        first = load_keys(config, {})
    second = load_keys(config, {})

    file = tmp_path / "data/keys/server.key"
    assert first.ids == second.ids == {first.current_id}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["server.key"]
    assert [entry["event"] for entry in logs] == ["server_key_made"]
    assert file.read_text().strip() not in str(logs)


def test_the_variable_goes_before_the_file(tmp_path: Path) -> None:
    """And no file is made then."""
    line = new_server_key()
    config = Config(data_dir=tmp_path / "data")

    ring = load_keys(config, {"TERP_KEY": f"{line}\n{new_server_key()}"})

    assert ring.current_id == server_key_id(base64.b64decode(line))
    assert len(ring.ids) == 2
    assert not config.server_key_file.exists()


def test_what_a_dead_start_left_is_no_key(tmp_path: Path) -> None:
    """The key has its name only once it is whole."""
    config = Config(data_dir=tmp_path)
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / ".server.key.1").write_text("half a k")

    assert load_keys(config, {}).ids == load_keys(config, {}).ids


@pytest.mark.parametrize("content", [b"", b"c2VjcmV0", b"\xff\xfe"])
def test_a_wrong_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    """The message names where it stands. A wrong file is never replaced: it may be what a backup is needed for."""
    file = tmp_path / "my.key"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"my\.key") as caught:
        load_keys(Config(key_file=file), {})
    assert "c2VjcmV0" not in str(caught.value)
    assert file.read_bytes() == content
    with pytest.raises(ConfigError, match="TERP_KEY") as caught:
        load_keys(Config(key_file=file), {"TERP_KEY": "c2VjcmV0"})
    assert "c2VjcmV0" not in str(caught.value)


def test_a_key_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("in the way")

    with pytest.raises(ConfigError, match="cannot be read or made"):
        load_keys(Config(data_dir=tmp_path), {})


async def test_missing_server_keys_are_named(tmp_path: Path) -> None:
    """At the start and not only at the first resume; once for each key, however many it wrapped."""
    old, new = KeyRing([os.urandom(32)]), KeyRing([os.urandom(32)])
    store = await open_sqlite(tmp_path / "terp.db")
    for ring in (old, old, new):
        await store.add_snapshot(_snapshot(ring), max_named=None)

    with capture_logs() as logs:
        await warn_of_missing(store, new, "here")
        await warn_of_missing(store, new, "elsewhere")
    await store.close()

    assert [(entry["event"], entry["server_key_id"], entry["sealed_keys"]) for entry in logs] == [
        ("server_key_missing", old.current_id, 2)
    ]


def _snapshot(ring: KeyRing) -> Snapshot:
    state_id = new_state_id()
    return Snapshot(
        id=state_id,
        tenant=TenantId("acme"),
        status=SnapshotStatus.READY,
        name=None,
        source=new_sandbox_id(),
        template="debian-12",
        size=Size("small", 1, 256),
        network=Network.OFF,
        region="local",
        node_id="here",
        created_at=dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
        sealed_key=ring.new_data_key(state_id).sealed,
    )
