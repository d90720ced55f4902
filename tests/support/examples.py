"""Blocks of code in the documents, with where they stand."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([TREE / "README.md", *TREE.glob("docs/**/*.md"), *TREE.glob("clients/*/README.md")])

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """Code of *document*, in the block that begins at *line*."""

    document: Path
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(TREE)}:{self.line}"


def examples(*languages: str) -> Sequence[Example]:
    """Return the blocks of these languages in all documents, without the indentation that they stand in."""
    return [
        Example(path, text.count("\n", 0, found.start()) + 1, textwrap.dedent(found["code"]))
        for path in DOCUMENTS
        for text in [path.read_text()]
        for found in _BLOCK.finditer(text)
        if found["language"] in languages
    ]
