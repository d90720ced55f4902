"""How often something must be heard from a call that takes long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Clients give up when nothing arrives for 30 s; the defaults leave room for a slow network.

    `patience_s`: how long a buffered answer may keep its real status waiting before 2xx is committed.
    `drip_s`: from then on, between two spaces in front of the JSON. `keepalive_s`: between two comments in a stream.
    """

    patience_s: float = 20.0
    drip_s: float = 10.0
    keepalive_s: float = 10.0
