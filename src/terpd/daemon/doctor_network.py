"""Whether sandboxes can have a network here: decided by making one, as for a machine."""

from __future__ import annotations

import time

from terpd.daemon.check import Check, Level
from terpd.egress.namespaces import NamespaceHelper
from terpd.model.errors import Unavailable


async def examine_network() -> Check:
    """Leaves nothing behind."""
    helper = NamespaceHelper()
    try:
        await helper.close(await helper.create())  # the first one loads the kernel's modules
        began_at = time.monotonic()
        sockets = await helper.create()
        took_s = time.monotonic() - began_at
        await helper.close(sockets)
    except Unavailable as error:
        return check_network(refused=error.detail)
    finally:
        await helper.aclose()
    return check_network(took_s=took_s)


def check_network(*, took_s: float = 0.0, refused: str | None = None) -> Check:
    """*refused* says what was, and what to do; *took_s* is the time of one namespace."""
    if refused is not None:
        advice = f"Only sandboxes with network `off` can be made. {refused}"
        return Check("network", Level.WARN, "no namespace with TAP and packet filter", advice)
    found = f"namespace, TAP and packet filter with TPROXY made in {took_s * 1000:.1f} ms"
    return Check("network", Level.OK, found)
