"""How all bodies are: requests are strict, answers are described only (they are built as plain dicts)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """No coercion ("10" is no number) and no unknown fields: a mistyped option must not be silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class AnswerBody(BaseModel):
    """Never instantiated: it documents an answer for OpenAPI. Clients ignore fields that they do not know."""
