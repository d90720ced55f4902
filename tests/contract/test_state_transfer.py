"""A saved state goes from one server to another: real databases, stores and keys; the template is said to be there."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from blake3 import blake3
from support.artifacts import FilesShop

from terpd.daemon.config import Config
from terpd.daemon.state_transfer import export_state, import_state
from terpd.model.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    StateConflict,
    StateDamaged,
    StateMismatch,
)
from terpd.model.ids import SandboxId, StateId, TenantId, new_layer_id, new_sandbox_id, new_state_id
from terpd.model.sandbox import Network, Sandbox, Size, Status
from terpd.model.snapshot import Snapshot, SnapshotStatus
from terpd.node.artifacts.base import ArtifactInfo
from terpd.node.snapshot.state import Origin, StateManifest, devices_name, layer_name, manifest_name, memory_name
from terpd.node.snapshot.state import read as read_state
from terpd.node.vmm.base import Hardware
from terpd.sealing.keyring import KeyRing
from terpd.store import SqliteStore, open_sqlite

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
TENANT = TenantId("acme")
SIZE = Size("small", 1, 256)


class OneServer:
    """What a server has on its disk, while it does not run."""

    def __init__(self, directory: Path, keys: KeyRing, store: SqliteStore) -> None:
        self.config = Config(data_dir=directory, home=directory, node_id=directory.name, region="elsewhere")
        self.keys = keys
        self.store = store
        self.artifacts = FilesShop(directory / "artifacts").store()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, directory: Path, keys: KeyRing) -> AsyncIterator[Self]:
        await asyncio.to_thread(directory.mkdir)
        store = await open_sqlite(directory / "terp.db")
        server = cls(directory, keys, store)
        await server.artifacts.open()
        try:
            yield server
        finally:
            await store.close()

    async def paused(self) -> Sandbox:
        """A paused sandbox, with a saved state of a few random bytes."""
        sandbox_id = new_sandbox_id()
        key = self.keys.new_data_key(sandbox_id)
        sandbox = Sandbox(
            id=sandbox_id,
            tenant=TENANT,
            status=Status.PAUSED,
            template="debian-12",
            size=SIZE,
            network=Network.OFF,
            region="local",
            node_id=self.config.node_id,
            created_at=NOW,
            expires_at=NOW,
            metadata={"a": "b"},
            state_id=new_state_id(),
            stored_bytes=1,
            key_id=key.id,
            sealed_key=key.sealed,
        )
        assert sandbox.state_id is not None
        await self._save(sandbox.state_id, key.secret)
        await self.store.add_sandbox(sandbox, max_live=None)
        return sandbox

    async def snapshot(self, status: SnapshotStatus = SnapshotStatus.READY) -> Snapshot:
        state_id = new_state_id()
        key = self.keys.new_data_key(state_id)
        snapshot = Snapshot(
            id=state_id,
            tenant=TENANT,
            status=status,
            name="golden",
            source=new_sandbox_id(),
            template="debian-12",
            size=SIZE,
            network=Network.OFF,
            region="local",
            node_id=self.config.node_id,
            created_at=NOW,
            key_id=key.id,
            sealed_key=key.sealed,
        )
        await self._save(state_id, key.secret)
        await self.store.add_snapshot(snapshot, max_named=None)
        return snapshot

    async def _save(self, state_id: StateId, key: bytes) -> None:
        parts = [await self._keep(name) for name in (memory_name(state_id), devices_name(state_id))]
        layers = [await self._keep(layer_name(new_layer_id())) for _ in range(2)]
        manifest = StateManifest(
            id=state_id,
            origin=Origin("debian-12", "small-0123456789abcdef", {"image": "x"}, "0" * 64),
            hardware=Hardware(1, 256),
            layers=layers,
            memory=parts[0],
            devices=parts[1],
            created_at=NOW,
            secrets=[os.urandom(32) for _ in layers],
        )
        await self.artifacts.put(manifest_name(state_id), manifest.encode(key))

    async def _keep(self, name: str) -> ArtifactInfo:
        content = os.urandom(5000)
        info = ArtifactInfo(name, len(content), blake3(content).hexdigest())
        with self.artifacts.draft(name) as draft:
            draft.write_bytes(content)
            await self.artifacts.keep(info, draft)
        return info

    async def export(self, subject: str, directory: Path) -> int:
        return await export_state(
            subject, directory, store=self.store, artifacts=self.artifacts, node_id=self.config.node_id
        )

    async def take(self, directory: Path, *, template: bool = True) -> str:
        @contextlib.asynccontextmanager
        async def holding(manifest: StateManifest) -> AsyncIterator[None]:
            if not template:
                raise StateMismatch(f"no {manifest.origin.template}")
            yield

        return await import_state(
            directory,
            store=self.store,
            artifacts=self.artifacts,
            keys=self.keys,
            config=self.config,
            holding_template=holding,
        )

    async def all_names(self) -> list[str]:
        return [*await self.artifacts.names("states/"), *await self.artifacts.names("layers/")]


@pytest.fixture
def keys() -> KeyRing:
    return KeyRing([os.urandom(32)])


@pytest.fixture
async def here(tmp_path: Path, keys: KeyRing) -> AsyncIterator[OneServer]:
    async with OneServer.opened(tmp_path / "here", keys) as server:
        yield server


@pytest.fixture
async def there(tmp_path: Path, keys: KeyRing) -> AsyncIterator[OneServer]:
    async with OneServer.opened(tmp_path / "there", keys) as server:
        yield server


async def test_a_paused_sandbox_arrives(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    """With all its parts and its key, as the other node's; and stays where it was."""
    sandbox = await here.paused()

    exported = await here.export(sandbox.id, tmp_path / "usb")
    assert await there.take(tmp_path / "usb") == sandbox.id

    assert exported == 4 * 5000
    arrived = await there.store.get_sandbox(TENANT, sandbox.id)
    assert arrived == replace(sandbox, node_id="there", region="elsewhere")
    assert arrived.sealed_key is not None
    assert arrived.state_id is not None
    key = there.keys.unwrap(arrived.sealed_key, arrived.id)
    manifest = await read_state(there.artifacts, arrived.state_id, key)
    for part in manifest.parts:
        assert (await there.artifacts.fetch(part)).read_bytes() == (await here.artifacts.fetch(part)).read_bytes()
    assert await here.store.get_sandbox(TENANT, sandbox.id) == sandbox


async def test_a_snapshot_arrives(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    snapshot = await here.snapshot()

    await here.export(snapshot.id, tmp_path / "usb")
    await there.take(tmp_path / "usb")

    assert await there.store.list_snapshots(TENANT) == [replace(snapshot, node_id="there", region="elsewhere")]
    assert await there.all_names() == await here.all_names()


async def test_its_paused_time_begins_anew(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    """Else one that was long on its way would be terminated on arrival."""
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")
    there.config = there.config.model_copy(update={"max_paused_s": 3600})

    await there.take(tmp_path / "usb")

    arrived = await there.store.get_sandbox(TENANT, sandbox.id)
    assert arrived.paused_expires_at is not None
    assert arrived.paused_expires_at > dt.datetime.now(dt.UTC)


async def test_nothing_is_taken_twice(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    """Neither where it came from, nor where it was terminated: its receipt says that its key is gone."""
    sandbox, snapshot = await here.paused(), await here.snapshot()
    for subject in (sandbox.id, snapshot.id):
        await here.export(subject, tmp_path / subject)
        await there.take(tmp_path / subject)
    await there.store.set_status(sandbox.id, Status.TERMINATED, at=NOW)

    for server in (here, there):
        for subject in (sandbox.id, snapshot.id):
            with pytest.raises(AlreadyExists, match=subject):
                await server.take(tmp_path / subject)


async def test_without_the_server_key_nothing_is_taken(here: OneServer, tmp_path: Path) -> None:
    """The message names the key; with it beside the own one, it works."""
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")
    own = os.urandom(32)

    async with OneServer.opened(tmp_path / "there", KeyRing([own])) as there:
        with pytest.raises(StateMismatch, match=here.keys.current_id):
            await there.take(tmp_path / "usb")
        assert await there.all_names() == []
        there.keys = KeyRing([own, *here.keys._keys.values()])
        await there.take(tmp_path / "usb")


async def test_without_the_template_nothing_is_taken(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")

    with pytest.raises(StateMismatch, match="debian-12"):
        await there.take(tmp_path / "usb", template=False)

    assert await there.all_names() == []
    assert await there.store.live_sandboxes("there") == []


@pytest.mark.parametrize("part", ["memory", "devices", "manifest.json", "qcow2"])
@pytest.mark.parametrize("how", ["missing", "changed"])
async def test_a_damaged_export_is_refused(
    here: OneServer, there: OneServer, tmp_path: Path, part: str, how: str
) -> None:
    """And nothing is recorded."""
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")
    path = next(path for path in (tmp_path / "usb").rglob("*") if path.name.endswith(part))
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "changed":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    with pytest.raises(StateDamaged):
        await there.take(tmp_path / "usb")

    assert await there.store.live_sandboxes("there") == []


async def test_half_an_export_is_refused(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    """The record is written last: without it the folder is not whole."""
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")
    (tmp_path / "usb/record.json").unlink()

    with pytest.raises(InvalidRequest, match="no whole export"):
        await there.take(tmp_path / "usb")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"status": "paused"', '"status": "running"'),
        ('"sealed_key"', '"unknown"'),
        ("snap_", "../"),
        ("sbx_", "../"),
        ("{", "["),
    ],
)
async def test_a_strange_record_is_refused(
    here: OneServer, there: OneServer, tmp_path: Path, old: str, new: str
) -> None:
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")
    record = tmp_path / "usb/record.json"
    text = record.read_text()
    assert old in text
    record.write_text(text.replace(old, new, 1))

    with pytest.raises((InvalidRequest, StateMismatch, StateConflict)):
        await there.take(tmp_path / "usb")

    assert await there.all_names() == []


async def test_another_id_does_not_get_the_key(here: OneServer, there: OneServer, tmp_path: Path) -> None:
    """The data key is wrapped for its subject."""
    sandbox = await here.paused()
    await here.export(sandbox.id, tmp_path / "usb")
    record = tmp_path / "usb/record.json"
    record.write_text(record.read_text().replace(sandbox.id, new_sandbox_id()))

    with pytest.raises(StateMismatch, match="does not open"):
        await there.take(tmp_path / "usb")


async def test_what_is_not_saved_is_not_exported(here: OneServer, tmp_path: Path) -> None:
    """Nor what is not here; and no folder is written over."""
    sandbox = await here.paused()
    capturing = await here.snapshot(SnapshotStatus.CAPTURING)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()

    for subject in (SandboxId(new_sandbox_id()), new_state_id(), "../x", ""):
        with pytest.raises(NotFound):
            await here.export(subject, tmp_path / "usb")
    with pytest.raises(StateConflict, match="capturing"):
        await here.export(capturing.id, tmp_path / "usb")
    with pytest.raises(InvalidRequest, match="not empty"):
        await here.export(sandbox.id, tmp_path / "full")
    await here.store.set_status(sandbox.id, Status.RESUMING, at=NOW)
    with pytest.raises(StateConflict, match="pause it first"):
        await here.export(sandbox.id, tmp_path / "usb")

    assert not (tmp_path / "usb").exists()


async def test_one_that_is_resumed_meanwhile(here: OneServer, tmp_path: Path) -> None:
    """Its state goes while it is copied: that is said, not damage."""
    sandbox = await here.paused()
    find = here.store.live_sandboxes
    found = await find("here")

    async def once_as_it_was(node_id: str) -> object:
        here.store.live_sandboxes = find  # type: ignore[method-assign]
        return found

    here.store.live_sandboxes = once_as_it_was  # type: ignore[method-assign,assignment]
    await here.store.set_status(sandbox.id, Status.RESUMING, at=NOW)
    shutil.rmtree(here.config.artifacts / "layers")

    with pytest.raises(StateConflict, match="resumed or deleted"):
        await here.export(sandbox.id, tmp_path / "usb")


async def test_an_export_shows_no_secret(here: OneServer, tmp_path: Path) -> None:
    sandbox = await here.paused()
    assert sandbox.sealed_key is not None
    key = here.keys.unwrap(sandbox.sealed_key, sandbox.id)

    await here.export(sandbox.id, tmp_path / "usb")

    everything = b"".join(path.read_bytes() for path in (tmp_path / "usb").rglob("*") if path.is_file())
    assert key not in everything
    assert (tmp_path / "usb/record.json").stat().st_mode & 0o777 == 0o600
