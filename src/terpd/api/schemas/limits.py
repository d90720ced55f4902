"""Limits and templates on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from terpd.api.schemas.shape import AnswerBody
from terpd.control.lookup import Limits
from terpd.model.template import TemplateInfo


class SizeBody(AnswerBody):
    size: str
    cpu: float
    memory_mb: int
    allowed: bool


class RegionBody(AnswerBody):
    id: str
    label: str


class LimitsBody(AnswerBody):
    plan: str = Field(description="Always `enterprise`: a server of one's own has no tiers")
    max_concurrent: int
    live: int = Field(description="Sandboxes in use now, of max_concurrent; paused ones are not in use")
    max_snapshots: int = Field(description="How many sandboxes may be paused")
    paused: int = Field(description="Sandboxes that are paused now or about to be, of max_snapshots")
    max_named_snapshots: int
    named_snapshots: int = Field(description="Named snapshots there are now, of max_named_snapshots")
    max_fork: int = Field(description="Children of one fork")
    max_timeout_seconds: int
    max_running_lifetime_seconds: int | None = Field(
        description="From start or resume to the latest end of a lease; null for no bound"
    )
    max_paused_seconds: int | None = Field(
        description="From a pause to the termination of what stays paused; null for never"
    )
    allowed_sizes: list[str]
    sizes: list[SizeBody]
    regions: list[RegionBody]
    custom_egress_allowlist: bool
    default_egress_domains: list[str]
    trial_credit_eur: float
    trial_credit_used_eur: float


class TemplateBody(AnswerBody):
    name: str
    description: str
    digest: str
    size_bytes: int
    warm_sizes: list[str] = Field(description="Sizes that start at once; another one boots first, once")


class TemplatesBody(AnswerBody):
    templates: list[TemplateBody]


def limits_object(limits: Limits) -> dict[str, Any]:
    return {
        "plan": "enterprise",
        "max_concurrent": limits.max_concurrent,
        "live": limits.live,
        "max_snapshots": limits.max_snapshots,
        "paused": limits.paused,
        "max_named_snapshots": limits.max_named_snapshots,
        "named_snapshots": limits.named_snapshots,
        "max_fork": limits.max_fork,
        "max_timeout_seconds": limits.max_timeout_s,
        "max_running_lifetime_seconds": limits.max_running_lifetime_s,
        "max_paused_seconds": limits.max_paused_s,
        "allowed_sizes": [size.name for size in limits.sizes],
        "sizes": [
            {"size": size.name, "cpu": size.vcpus, "memory_mb": size.memory_mib, "allowed": True}
            for size in limits.sizes
        ],
        "regions": [{"id": limits.region, "label": limits.region_label}],
        "custom_egress_allowlist": True,
        "default_egress_domains": list(limits.default_domains),
        "trial_credit_eur": 0.0,
        "trial_credit_used_eur": 0.0,
    }


def template_object(template: TemplateInfo) -> dict[str, Any]:
    return {
        "name": template.name,
        "description": template.description,
        "digest": template.digest,
        "size_bytes": template.size_bytes,
        "warm_sizes": list(template.warm_sizes),
    }
