"""What this server offers and to what extent: set by the operator, read by every use case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from terpd.model.sandbox import Size

MIN_TIMEOUT_S = 10

MAX_METADATA_PAIRS = 64
MAX_METADATA_KEY_BYTES = 128
MAX_METADATA_VALUE_BYTES = 1024
MAX_NAME_BYTES = 128

# Environments travel in one frame of the guest wire (64 KiB, names and framing included) and end in the argument
# area of a new process.
MAX_ENV_BYTES = 32 * 1024
MAX_ENV_PAIRS = 512


@dataclass(frozen=True, slots=True)
class Policy:
    """
    `max_concurrent` counts a tenant's sandboxes that are neither final nor paused. `max_timeout_s` bounds a lease from
    the moment it is set, and a command's timeout.

    Attributes:
        max_snapshots: A tenant's paused sandboxes.
        max_named_snapshots: A tenant's named snapshots.
        max_fork: Children of one fork.
        max_volumes: A tenant's volumes.
        max_running_lifetime_s: From start or resume to the latest end of a lease; None for no bound.
        max_paused_s: From pause to termination; None for never.
        default_domains: What `restricted` allows without a list of its own, besides the template's package hosts.
        preview_base: The domain below which previews have their host names.
        public_url: Where clients reach this server, as presigned URLs begin; None: where the request was sent to.
        egress_retention_days: How long connections stay on record.
    """

    region: str
    region_label: str
    sizes: Mapping[str, Size]
    max_concurrent: int
    max_timeout_s: int
    max_snapshots: int = 50
    max_named_snapshots: int = 50
    max_fork: int = 32
    max_volumes: int = 100
    max_running_lifetime_s: int | None = None
    max_paused_s: int | None = None
    default_domains: Sequence[str] = ()
    preview_base: str = "localhost"
    public_url: str | None = None
    egress_retention_days: int = 30
