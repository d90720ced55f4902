# Generated from src/terp/_async/usage.py by tools/sync.py: change that one.
"""What a tenant uses, for those who have no client of their own."""

from __future__ import annotations

import datetime as dt

from terp._sync.client import Terp
from terp._sync.default import default_client
from terp.models import Usage


def usage(since: dt.date | None = None, until: dt.date | None = None, *, client: Terp | None = None) -> Usage:
    """
    Return what all sandboxes of this key's tenant used, by day.

    Args:
        since, until: The first and the last day, in UTC; the last 30 days if not given.
    """
    client = client or default_client()
    return client.usage(since, until)
