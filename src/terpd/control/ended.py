"""Why a guest is lost: its sandbox may have ended meanwhile, and then that is what its user must hear."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from terpd.model.errors import GuestFault, SandboxNotFound, StateConflict
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Store
from terpd.model.sandbox import FINAL


@contextlib.asynccontextmanager
async def explaining_end(store: Store, tenant: TenantId, sandbox_id: SandboxId, during: str) -> AsyncIterator[None]:
    """
    Wrap a use of a guest. *during* names it to the user: "while the command ran".

    Raises:
        StateConflict: In place of GuestFault or StateConflict of the block, if the sandbox has ended; says why.
    """
    try:
        yield
    except (GuestFault, StateConflict) as error:
        try:
            sandbox = await store.get_sandbox(tenant, sandbox_id)
        except SandboxNotFound:
            raise error from None
        if sandbox.status not in FINAL:
            raise
        raise StateConflict(
            f"Sandbox {sandbox_id} ended ({sandbox.end_reason}) {during}", fields={"status": str(sandbox.status)}
        ) from error
