"""What a tenant uses, for those who have no client of their own."""

from __future__ import annotations

import datetime as dt

from terp._async.client import AsyncTerp
from terp._async.default import default_client
from terp.models import Usage


async def usage_async(
    since: dt.date | None = None, until: dt.date | None = None, *, client: AsyncTerp | None = None
) -> Usage:
    """
    Return what all sandboxes of this key's tenant used, by day.

    Args:
        since, until: The first and the last day, in UTC; the last 30 days if not given.
    """
    client = client or await default_client()
    return await client.usage(since, until)
