"""Sandboxes as the store would hold them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from terpd.model.ids import SandboxId, TenantId, new_sandbox_id
from terpd.model.sandbox import Network, Sandbox, Size, Status

NOON = dt.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
TENANT = TenantId("acme")
SMALL = Size("small", 1, 1024)


def make_sandbox(
    *,
    sandbox_id: SandboxId | None = None,
    tenant: TenantId = TENANT,
    status: Status = Status.STARTING,
    created_at: dt.datetime = NOON,
    lease_s: int = 600,
    metadata: Mapping[str, str] | None = None,
    node_id: str = "node-a",
) -> Sandbox:
    return Sandbox(
        id=sandbox_id or new_sandbox_id(),
        tenant=tenant,
        status=status,
        template="python-3.12",
        size=SMALL,
        network=Network.OFF,
        region="local",
        node_id=node_id,
        created_at=created_at,
        expires_at=created_at + dt.timedelta(seconds=lease_s),
        metadata=metadata or {},
    )
