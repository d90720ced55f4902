# Generated from src/terp/_async/default.py by tools/sync.py: change that one.
"""The client of those who pass none: one per server and scope, made at first use, closed at the scope's end."""

from __future__ import annotations

import os

from terp import pairs
from terp._sync.client import Terp
from terp.protocol.settings import Settings, resolve_settings

_clients: dict[tuple[object, Settings], Terp] = {}


def default_client() -> Terp:
    """
    Raises:
        Unauthenticated: The environment has no TERP_API_KEY.
        InvalidRequest: TERP_API_KEY or TERP_BASE_URL have not the form of one.
    """
    key = (pairs.scope(), resolve_settings(None, None, os.environ))
    client = _clients.get(key)
    if client is None:
        for stale in [known for known in _clients if pairs.is_over(known[0])]:
            _clients.pop(stale, None)
        client = Terp()
        winner = _clients.setdefault(key, client)  # atomic: another thread may have been faster
        if winner is client:
            pairs.at_end(client.close)
        else:
            client.close()
            client = winner
    return client
