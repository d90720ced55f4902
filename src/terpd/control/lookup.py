"""What a tenant can look up: its sandboxes, its limits, the templates here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from terpd.control.policy import Policy
from terpd.model.ids import SandboxId, TenantId
from terpd.model.ports import Node, SandboxFilter, Store
from terpd.model.sandbox import Sandbox, Size
from terpd.model.template import TemplateInfo


@dataclass(frozen=True, slots=True)
class Page:
    """`next_before` is where the following page begins; None on the last one."""

    sandboxes: Sequence[Sandbox]
    next_before: SandboxId | None


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What the tenant may use, and how much of it is in use.

    Attributes:
        live: Sandboxes that count against `max_concurrent`.
        paused: Sandboxes that count against `max_snapshots`: paused, and being paused or resumed.
        named_snapshots: Those that count against `max_named_snapshots`.
        default_domains: What `restricted` allows besides the template's package hosts, unless a sandbox says otherwise.
    """

    sizes: Sequence[Size]
    max_concurrent: int
    live: int
    max_timeout_s: int
    max_running_lifetime_s: int | None
    max_snapshots: int
    paused: int
    max_named_snapshots: int
    named_snapshots: int
    max_fork: int
    max_paused_s: int | None
    region: str
    region_label: str
    default_domains: Sequence[str]


class Lookup:
    def __init__(self, store: Store, node: Node, policy: Policy) -> None:
        self._store = store
        self._node = node
        self._policy = policy

    async def sandbox(self, tenant: TenantId, sandbox_id: SandboxId) -> Sandbox:
        """Ended ones stay readable. Raises SandboxNotFound."""
        return await self._store.get_sandbox(tenant, sandbox_id)

    async def sandboxes(self, tenant: TenantId, where: SandboxFilter) -> Page:
        """Newest first."""
        # One more than asked for tells whether a further page exists.
        one_more = SandboxFilter(where.status, where.metadata, where.before, where.limit + 1)
        found = await self._store.list_sandboxes(tenant, one_more)
        shown = found[: where.limit]
        return Page(shown, shown[-1].id if len(found) > len(shown) else None)

    async def limits(self, tenant: TenantId) -> Limits:
        policy = self._policy
        return Limits(
            sizes=tuple(policy.sizes.values()),
            max_concurrent=policy.max_concurrent,
            live=await self._store.count_on_node(tenant),
            max_timeout_s=policy.max_timeout_s,
            max_running_lifetime_s=policy.max_running_lifetime_s,
            max_snapshots=policy.max_snapshots,
            paused=await self._store.count_saved(tenant),
            max_named_snapshots=policy.max_named_snapshots,
            named_snapshots=await self._store.count_snapshots(tenant),
            max_fork=policy.max_fork,
            max_paused_s=policy.max_paused_s,
            region=policy.region,
            region_label=policy.region_label,
            default_domains=policy.default_domains,
        )

    async def templates(self) -> Sequence[TemplateInfo]:
        return await self._node.templates()
