"""Snapshots as the store would hold them, with data keys of a server key that is made for the run."""

from __future__ import annotations

from dataclasses import replace

from support.sandboxes import NOON, SMALL, TENANT
from terpd.model.ids import new_sandbox_id, new_state_id
from terpd.model.sandbox import Network
from terpd.model.snapshot import Snapshot, SnapshotStatus
from terpd.sealing.keyring import KeyRing, new_server_key

SERVER_KEYS = KeyRing.parse(new_server_key())


def make_snapshot(**changes: object) -> Snapshot:
    state_id = new_state_id()
    key = SERVER_KEYS.new_data_key(state_id)
    snapshot = Snapshot(
        id=state_id,
        tenant=TENANT,
        status=SnapshotStatus.CAPTURING,
        name="before the upgrade",
        source=new_sandbox_id(),
        template="python-3.12",
        size=SMALL,
        network=Network.OFF,
        region="local",
        node_id="node-a",
        created_at=NOON,
        key_id=key.id,
        sealed_key=key.sealed,
    )
    return replace(snapshot, **changes)  # type: ignore[arg-type]
