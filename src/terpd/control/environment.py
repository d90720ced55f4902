"""Variables of commands to come, set while the sandbox lives: in its guest's memory, and never read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from terpd.control.awake import Awake
from terpd.control.checks import check_secrets, check_variables
from terpd.control.ended import explaining
from terpd.model.errors import InvalidRequest
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, Store

_DURING = "while its variables were in use"
_TODO = "resume it and try again"


class Environment:
    """A sandbox that is paused and has `auto_resume` is resumed first. Raises as `Commands` does."""

    def __init__(self, store: Store, node: Node, awake: Awake) -> None:
        self._store = store
        self._node = node
        self._awake = awake

    async def names(self, tenant: TenantId, sandbox_id: SandboxId) -> Sequence[str]:
        """Of those that were set by `change`, sorted."""
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _DURING, todo=_TODO, fields={}):
            return await self._node.env_names(sandbox_id)

    async def change(
        self, tenant: TenantId, sandbox_id: SandboxId, to_set: Mapping[str, str], to_unset: Sequence[str]
    ) -> Sequence[str]:
        """
        Set and unset variables, all or nothing, and return the names of all. Unsetting an unknown one is fine.

        Raises:
            InvalidRequest, TooLarge: A name or value is out of bounds, or a name is in both.
            LimitExceeded: There would be more than 256, or of more than 64 KiB in all.
        """
        check_secrets(to_set, field="set")
        check_variables(to_unset, field="unset")
        if both := sorted(to_set.keys() & set(to_unset)):
            raise InvalidRequest(f"set and unset both name {both[0]}")
        await self._awake(tenant, sandbox_id)
        async with explaining(self._store, tenant, sandbox_id, _DURING, todo=_TODO, fields={}):
            await self._node.change_env(sandbox_id, to_set, to_unset)
            return await self._node.env_names(sandbox_id)
