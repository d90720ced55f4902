"""Why a guest did not answer: its sandbox may have ended or been paused, and then that is what its user must hear."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from terpd.model.errors import GuestFault, SandboxNotFound, StateConflict
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Store
from terpd.model.sandbox import FINAL, SAVED, Sandbox


@contextlib.asynccontextmanager
async def explaining_end(store: Store, tenant: TenantId, sandbox_id: SandboxId, during: str) -> AsyncIterator[None]:
    """
    Wrap a change of a sandbox. *during* names it to the user: "while it was being paused".

    Raises:
        StateConflict: In place of GuestFault or StateConflict of the block, if the sandbox has ended; says why.
    """
    try:
        yield
    except (GuestFault, StateConflict) as error:
        await _explain_end(store, tenant, sandbox_id, during, error)
        raise


@contextlib.asynccontextmanager
async def explaining(
    store: Store,
    tenant: TenantId,
    sandbox_id: SandboxId,
    during: str,
    *,
    todo: str,
    fields: Mapping[str, object],
) -> AsyncIterator[None]:
    """
    Wrap a use of a guest. *during* names it to the user: "while the command ran".

    Args:
        todo: What to do if it was paused, after "…; ".
        fields: For the error of a pause; read when it is raised.

    Raises:
        StateConflict: In place of GuestFault or StateConflict of the block, if the sandbox has ended or was paused.
    """
    try:
        yield
    except (GuestFault, StateConflict) as error:
        sandbox = await _explain_end(store, tenant, sandbox_id, during, error)
        if sandbox.status in SAVED:
            raise StateConflict(
                f"Sandbox {sandbox_id} was paused {during}; {todo}", fields={"status": str(sandbox.status), **fields}
            ) from error
        if isinstance(error, StateConflict):  # paused for a moment, and runs again
            error.fields.update(fields)
        raise


async def _explain_end(
    store: Store, tenant: TenantId, sandbox_id: SandboxId, during: str, error: GuestFault | StateConflict
) -> Sandbox:
    """Return the sandbox unless it has ended."""
    try:
        sandbox = await store.get_sandbox(tenant, sandbox_id)
    except SandboxNotFound:
        raise error from None
    if sandbox.status in FINAL:
        raise StateConflict(
            f"Sandbox {sandbox_id} ended ({sandbox.end_reason}) {during}", fields={"status": str(sandbox.status)}
        ) from error
    return sandbox
