"""A pause on the wire."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from terpd.api.schemas.shape import AnswerBody
from terpd.model.ids import SandboxId
from terpd.model.snapshot import SavedState


class PausedBody(AnswerBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sandbox_id": "sbx_01JG0000000000000000000000",
                    "stored_bytes": 5242880,
                    "dirty_bytes": 9437184,
                    "stopped_ms": 41.5,
                }
            ]
        }
    )

    sandbox_id: str
    stored_bytes: int = Field(description="What it takes of the server's disk, encrypted")
    dirty_bytes: int = Field(description="Guest memory that differs from the template's")
    stopped_ms: float = Field(description="How long it took from the stop of its processors until all was read")


def paused_object(sandbox_id: SandboxId, saved: SavedState) -> dict[str, Any]:
    return {
        "sandbox_id": sandbox_id,
        "stored_bytes": saved.stored_bytes,
        "dirty_bytes": saved.dirty_bytes,
        "stopped_ms": milliseconds(saved.stopped_s),
    }


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
