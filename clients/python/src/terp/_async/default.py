"""The client of those who pass none: one per server and scope, made at first use, closed at the scope's end."""

from __future__ import annotations

import os

from terp import pairs
from terp._async.client import AsyncTerp
from terp.protocol.settings import Settings, resolve_settings

_clients: dict[tuple[object, Settings], AsyncTerp] = {}


async def default_client() -> AsyncTerp:
    """
    Raises:
        Unauthenticated: The environment has no TERP_API_KEY.
        InvalidRequest: TERP_API_KEY or TERP_BASE_URL have not the form of one.
    """
    key = (pairs.scope_async(), resolve_settings(None, None, os.environ))
    client = _clients.get(key)
    if client is None:
        for stale in [known for known in _clients if pairs.is_over_async(known[0])]:
            _clients.pop(stale, None)
        client = AsyncTerp()
        winner = _clients.setdefault(key, client)  # atomic: another thread may have been faster
        if winner is client:
            await pairs.at_end_async(client.aclose)
        else:
            await client.aclose()
            client = winner
    return client
