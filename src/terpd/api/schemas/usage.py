"""What sandboxes use, on the wire."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from terpd.api.respond import timestamp
from terpd.api.schemas.shape import AnswerBody
from terpd.control.usage import SandboxUsage
from terpd.model.usage import SAMPLE_INTERVAL_S, WINDOW_S, Usage


class CpuBody(AnswerBody):
    cores: float
    usage_cores: float | None = Field(description="Of the last second; null unless it runs")
    usage_percent: float | None = Field(description="Of its cores: all busy is 100")


class MemoryBody(AnswerBody):
    limit_bytes: int = Field(description="Guest memory")
    usage_bytes: int | None = Field(description="Of the whole machine, without what can be taken back at once")
    usage_percent: float | None = Field(description="Of guest memory, 100 at most")


class UsageBody(AnswerBody):
    cpu_seconds: float
    gb_seconds: float = Field(description="A GB is 10^9 bytes")


class SampleBody(AnswerBody):
    t: str
    cpu_percent: float
    mem_bytes: int


class SandboxMetricsBody(AnswerBody):
    sandbox_id: str
    sandbox_status: str
    as_of: str
    sample_interval_seconds: int
    window_seconds: int
    cpu: CpuBody
    memory: MemoryBody
    lifetime: UsageBody = Field(description="Over all pauses and resumes; at most 10 s behind")
    samples: list[SampleBody] = Field(description="Oldest first")


class DayBody(UsageBody):
    day: str


class UsageByDayBody(AnswerBody):
    days: list[DayBody] = Field(description="In UTC, oldest first; without those when nothing was used")
    total: UsageBody


def metrics_object(found: SandboxUsage) -> dict[str, Any]:
    size = found.sandbox.size
    limit = size.memory_mib << 20
    last = found.last
    return {
        "sandbox_id": found.sandbox.id,
        "sandbox_status": found.sandbox.status.value,
        "as_of": timestamp(found.at),
        "sample_interval_seconds": SAMPLE_INTERVAL_S,
        "window_seconds": WINDOW_S,
        "cpu": {
            "cores": size.vcpus,
            "usage_cores": None if last is None else round(last.cores_used, 4),
            "usage_percent": None if last is None else _percent(last.cores_used, size.vcpus),
        },
        "memory": {
            "limit_bytes": limit,
            "usage_bytes": None if last is None else last.memory_bytes,
            "usage_percent": None if last is None else _percent(last.memory_bytes, limit),
        },
        "lifetime": usage_object(found.lifetime),
        "samples": [
            {
                "t": timestamp(sample.at),
                "cpu_percent": _percent(sample.cores_used, size.vcpus),
                "mem_bytes": sample.memory_bytes,
            }
            for sample in found.samples
        ],
    }


def usage_object(usage: Usage) -> dict[str, float]:
    return {"cpu_seconds": round(usage.cpu_seconds, 6), "gb_seconds": round(usage.gb_seconds, 6)}


def days_object(days: Sequence[tuple[dt.date, Usage]]) -> dict[str, Any]:
    total = Usage(sum(usage.cpu_seconds for _, usage in days), sum(usage.gb_seconds for _, usage in days))
    return {
        "days": [{"day": day.isoformat(), **usage_object(usage)} for day, usage in days],
        "total": usage_object(total),
    }


def _percent(part: float, whole: float) -> float:
    return round(min(100 * part / whole, 100.0), 2)
