"""Forks on the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from terpd.api.schemas.pause import milliseconds
from terpd.api.schemas.sandboxes import AUTO_RESUME, ON_TIMEOUT, SandboxBody, sandbox_object
from terpd.api.schemas.shape import AnswerBody, RequestBody
from terpd.api.schemas.snapshots import INCLUDE_SECRETS
from terpd.control.fork import Forked, ForkRequest
from terpd.control.previews import Previews
from terpd.model.sandbox import OnTimeout


class ForkBody(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"count": 3, "timeout_seconds": 600}]})

    count: int = Field(1, description="How many children: 1 to the `max_fork` of GET /v1/sandboxes/limits")
    timeout_seconds: int = Field(600, description="The children's lease: 10 to the server's maximum")
    on_timeout: Literal["kill", "pause"] = Field("kill", description=ON_TIMEOUT)
    auto_resume: bool = Field(False, description=AUTO_RESUME)
    env: dict[str, str] = Field({}, description="Over what the source was given, for new commands. 32 KiB in all")
    include_secrets: bool = Field(False, description=INCLUDE_SECRETS)
    metadata: dict[str, str] = Field({}, description="64 pairs; keys to 128 bytes, values to 1024")

    def to_request(self) -> ForkRequest:
        return ForkRequest(
            count=self.count,
            timeout_s=self.timeout_seconds,
            on_timeout=OnTimeout(self.on_timeout),
            auto_resume=self.auto_resume,
            env=self.env,
            metadata=self.metadata,
            include_secrets=self.include_secrets,
        )


class ForkedBody(AnswerBody):
    sandboxes: list[SandboxBody] = Field(description="The children, all running, in no order")
    stopped_ms: float | None = Field(description="How long the source stood still for it")


def forked_object(forked: Forked, previews: Previews) -> dict[str, Any]:
    return {
        "sandboxes": [sandbox_object(child, previews) for child in forked.children],
        "stopped_ms": milliseconds(forked.saved.stopped_s),
    }
