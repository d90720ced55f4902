"""The programs in the guides of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
GUIDES = sorted(path for path in (TREE / "docs/guides").glob("*.md") if path.name != "index.md")
RESTART = "<!-- test: the server restarts, and a new process goes on -->"
_TEST = "<!-- test:"


def programs(guide: Path) -> Sequence[str]:
    """Return what runs of *guide*, a program a process: its lines are where they are in the guide, all others empty."""
    lines = guide.read_text().splitlines()
    found: list[list[str]] = [[]]
    ends_with: str | None = None  # of the block that a line is in
    for number, line in enumerate(lines):
        kept = ""
        if ends_with is not None:
            if line == ends_with:
                ends_with = None
            else:
                kept = line
        elif line == "```python":
            ends_with = "```"
        elif line == RESTART:
            found.append([""] * number)
        elif line == _TEST:
            ends_with = "-->"
        elif line.startswith(_TEST):
            kept = line.removeprefix(_TEST).removesuffix("-->").strip()
        found[-1].append(kept)
    assert ends_with is None, f"{guide}: a block has no end"
    return ["\n".join(program) + "\n" for program in found]
