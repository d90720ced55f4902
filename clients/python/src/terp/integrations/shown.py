"""What a model is shown: bounded, with a hint where the rest is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

SHOWN_CHARS = 30_000  # of each text: what is more drowns a model
MAX_IMAGES = 8


@dataclass(frozen=True)
class Output:
    """
    What a tool answers.

    Attributes:
        text: JSON with the fields of the server's tools over MCP; of an error, what happened and what to do.
        images: PNG files.
        is_error: The tool could not do it. That a command or code failed is no error of the tool.
    """

    text: str
    images: tuple[bytes, ...] = field(default=(), repr=False)
    is_error: bool = False


def output(fields: Mapping[str, object], images: tuple[bytes, ...] = ()) -> Output:
    """Make an output of *fields* as JSON; those that are None are left out."""
    present = {name: value for name, value in fields.items() if value is not None}
    return Output(json.dumps(present, ensure_ascii=False), images)


def shortened(text: str, path: str | None = None) -> str:
    """Leave out the middle of what is too long; *path* is the file in the sandbox that has all of it."""
    if len(text) <= SHOWN_CHARS:
        return text
    half = SHOWN_CHARS // 2
    where = "" if path is None else f"; all of it is in {path}"
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out{where} …]\n{text[-half:]}"
