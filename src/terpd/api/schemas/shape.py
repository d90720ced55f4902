"""How all bodies are: requests are strict, answers are described only (they are built as plain dicts)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from terpd.control.policy import MAX_ENV_PAIRS
from terpd.model.errors import TooLarge

MAX_FIELDS = 64
MAX_ELEMENTS = MAX_ENV_PAIRS  # the longest list or mapping that any use case takes


class RequestBody(BaseModel):
    """No coercion ("10" is no number) and no unknown fields: a mistyped option must not be silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, data: Any) -> Any:
        """
        Count before looking at anything: each wrong element becomes an error object, and 3 MB of `{}` took 2 GB so.

        Raises:
            TooLarge: More than 64 fields, or more than 512 elements in one of them.
        """
        if isinstance(data, dict):
            if len(data) > MAX_FIELDS:
                raise TooLarge(f"An object may have {MAX_FIELDS} fields at most; it has: {len(data)}")
            for name, value in data.items():
                if isinstance(value, list | dict) and len(value) > MAX_ELEMENTS:
                    shown = name if name in cls.model_fields else "A field"
                    raise TooLarge(f"{shown} may have {MAX_ELEMENTS} elements at most; it has: {len(value)}")
        return data


class NoBody(RequestBody):
    """For calls without options: no body at all, or `{}`."""


class AnswerBody(BaseModel):
    """Never instantiated: it documents an answer for OpenAPI. Clients ignore fields that they do not know."""
