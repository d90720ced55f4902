"""
Taking a saved state from one server to another: out of its store into a folder, and from there into the other's.

    DIR/record.json                       the sandbox or snapshot as recorded, its data key wrapped; written last
    DIR/states/<state id>/, DIR/layers/   as in an artifact store of files

Nothing in the folder can be read without the server key that wrapped the data key. What either end leaves when it dies
half way is no whole export, or artifacts without a record, which the next start removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from terpd.daemon.config import Config
from terpd.model.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    SandboxNotFound,
    SnapshotNotFound,
    StateConflict,
    StateDamaged,
    StateMismatch,
)
from terpd.model.ids import StateId, parse_sandbox_id, parse_state_id
from terpd.model.ports import Store
from terpd.model.sandbox import Sandbox, Status
from terpd.model.snapshot import Snapshot, SnapshotStatus
from terpd.node.artifacts.base import ArtifactInfo, ArtifactStore
from terpd.node.artifacts.files import FilesStore, faults, sync
from terpd.node.snapshot import state
from terpd.sealing.keyring import KeyRing

FORMAT = 1
_RECORD = "record.json"


class Record(BaseModel):
    """What record.json holds: one of the two."""

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    format: int = FORMAT
    sandbox: Sandbox | None = None
    snapshot: Snapshot | None = None

    @property
    def subject(self) -> tuple[str, StateId, bytes]:
        """Id, saved state and wrapped data key. Raises StateConflict when it has no saved state."""
        if self.sandbox is not None:
            sandbox = self.sandbox
            if sandbox.status is not Status.PAUSED or sandbox.state_id is None or sandbox.sealed_key is None:
                raise StateConflict(f"Sandbox {sandbox.id} is {sandbox.status}; pause it first")
            if sandbox.volume is not None:
                raise StateConflict(f"Sandbox {sandbox.id} has the volume {sandbox.volume}, which stays on this server")
            return sandbox.id, sandbox.state_id, sandbox.sealed_key
        if self.snapshot is not None:
            snapshot = self.snapshot
            if snapshot.status is not SnapshotStatus.READY or snapshot.sealed_key is None:
                raise StateConflict(f"Snapshot {snapshot.id} is {snapshot.status}, not ready")
            return snapshot.id, snapshot.id, snapshot.sealed_key
        raise StateDamaged(f"{_RECORD} holds no sandbox and no snapshot")


async def export_state(subject: str, directory: Path, *, store: Store, artifacts: ArtifactStore, node_id: str) -> int:
    """
    Copy a paused sandbox or a ready snapshot of this node into an empty folder. Returns its bytes.

    Raises:
        NotFound, StateConflict: There is none, or it is not saved; or it was resumed or deleted meanwhile.
        InvalidRequest: The folder is not empty.
        StateDamaged, StorageFull, Unavailable.
    """
    record = await _find(store, node_id, subject)
    _, state_id, _ = record.subject
    await asyncio.to_thread(_make_empty, directory)
    target = FilesStore(directory)
    await target.open()
    try:
        manifest = await state.read_public(artifacts, state_id)
        for part in manifest.parts:
            await _copy(part, await artifacts.fetch(part), target)
        content = await artifacts.read(state.manifest_name(state_id), limit=state.MAX_BYTES)
        if content is None:
            raise StateDamaged(f"{state.manifest_name(state_id)} is missing")
    except StateDamaged:
        if await _find(store, node_id, subject) != record:
            raise StateConflict(f"{subject} was resumed or deleted while it was exported") from None
        raise
    await target.put(state.manifest_name(state_id), content)
    await asyncio.to_thread(_write_record, directory, record)
    return manifest.stored_bytes


async def import_state(
    directory: Path,
    *,
    store: Store,
    artifacts: ArtifactStore,
    keys: KeyRing,
    config: Config,
    holding_template: Callable[[state.StateManifest], contextlib.AbstractAsyncContextManager[None]],
) -> str:
    """
    Take what `export_state` left into an opened store and record it as this node's. Returns the id.

    No server may run on these stores. The folder stays as it is.

    Args:
        holding_template: Sees to it that the template of a state stays; raises StateMismatch when it is not here.

    Raises:
        InvalidRequest: That is no whole export.
        AlreadyExists: The sandbox or snapshot is known here.
        StateMismatch: The server key or the template is not here; says which.
        StateDamaged, StorageFull, Unavailable.
    """
    record = await asyncio.to_thread(_read_record, directory)
    subject, state_id, sealed_key = record.subject
    await _refuse_known(store, record)
    key = keys.unwrap(sealed_key, subject)
    source = FilesStore(directory)
    manifest = await state.read(source, state_id, key)
    async with holding_template(manifest):
        for part in manifest.parts:
            await _copy(part, await source.fetch(part), artifacts)
        content = await source.read(state.manifest_name(state_id), limit=state.MAX_BYTES)
        assert content is not None  # it was read above
        await artifacts.put(state.manifest_name(state_id), content)
        await _add(store, record, config)
    return subject


async def _find(store: Store, node_id: str, subject: str) -> Record:
    for sandbox in await store.live_sandboxes(node_id) if parse_sandbox_id(subject) else ():
        if sandbox.id == subject:
            return Record(sandbox=sandbox)
    for snapshot in await store.snapshots_on_node(node_id) if parse_state_id(subject) else ():
        if snapshot.id == subject and not snapshot.for_fork:
            return Record(snapshot=snapshot)
    raise NotFound(f"There is no sandbox and no snapshot {subject} on the node {node_id}")


async def _refuse_known(store: Store, record: Record) -> None:
    """Also what has ended: its record says that its key was destroyed, and must go on being true."""
    with contextlib.suppress(SandboxNotFound, SnapshotNotFound):
        if record.sandbox is not None:
            known = await store.get_sandbox(record.sandbox.tenant, record.sandbox.id)
            raise AlreadyExists(f"Sandbox {known.id} is known to this server already, and is {known.status}")
        if record.snapshot is not None:
            found = await store.get_snapshot(record.snapshot.tenant, record.snapshot.id)
            raise AlreadyExists(f"Snapshot {found.id} is known to this server already, and is {found.status}")


async def _add(store: Store, record: Record, config: Config) -> None:
    if record.sandbox is not None:
        until = _paused_until(config)
        sandbox = replace(record.sandbox, node_id=config.node_id, region=config.region, paused_expires_at=until)
        await store.add_sandbox(sandbox, max_live=None)
    if record.snapshot is not None:
        snapshot = replace(record.snapshot, node_id=config.node_id, region=config.region)
        await store.add_snapshot(snapshot, max_named=None)


async def _copy(info: ArtifactInfo, path: Path, target: ArtifactStore) -> None:
    def copy(draft: Path) -> None:
        with faults(f"copy {info.name}"):
            shutil.copyfile(path, draft)

    with target.draft(info.name) as draft:
        await asyncio.to_thread(copy, draft)
        await target.keep(info, draft)


def _make_empty(directory: Path) -> None:
    with faults("make the folder"):
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise InvalidRequest(f"{directory} is not empty; name a folder that is empty or does not exist")


def _write_record(directory: Path, record: Record) -> None:
    """For the owner's eyes: it says whose sandbox it is, and has its metadata."""
    with faults(f"write {_RECORD}"):
        temporary = directory / f".{_RECORD}"
        temporary.touch(mode=0o600)
        with temporary.open("w") as file:
            file.write(record.model_dump_json(indent=1, exclude_none=True))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / _RECORD)
        (directory / ".drafts").rmdir()
        sync(directory)


def _read_record(directory: Path) -> Record:
    try:
        record = Record.model_validate_json((directory / _RECORD).read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{directory} is no whole export: {_RECORD}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{directory} is no export: {_RECORD}: {where}: {first['msg']}") from error
    if record.format != FORMAT:
        raise StateMismatch(f"{directory} is an export of format {record.format}, and this release reads {FORMAT}")
    subject, state_id, _ = record.subject
    if not (parse_state_id(state_id) and (parse_sandbox_id(subject) or parse_state_id(subject))):
        raise InvalidRequest(f"{directory} is no export: {_RECORD} names no id")
    return record


def _paused_until(config: Config) -> dt.datetime | None:
    """Its paused time begins anew, by this server's rules."""
    if config.max_paused_s is None:
        return None
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=config.max_paused_s)
