"""Receipts: that the data keys of what is gone were destroyed."""

from __future__ import annotations

from collections.abc import Sequence

from terpd.model.errors import InvalidRequest
from terpd.model.ids import TenantId
from terpd.model.ports import Store
from terpd.model.snapshot import Receipt

MAX_RECEIPTS = 200


class Receipts:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, tenant: TenantId, subject: str | None = None, limit: int = 50) -> Sequence[Receipt]:
        """
        Newest first; only those of *subject*, a sandbox's or snapshot's id, if it is given.

        Raises:
            InvalidRequest: *limit* is not 1 to 200.
        """
        if not 1 <= limit <= MAX_RECEIPTS:
            raise InvalidRequest(f"limit must be 1 to {MAX_RECEIPTS}, not: {limit}")
        return await self._store.list_receipts(tenant, subject=subject, limit=limit)
