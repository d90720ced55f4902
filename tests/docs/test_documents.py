"""What the documents say is true: files exist, settings and error codes are listed, the first example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from terpd.daemon.config import Config

if TYPE_CHECKING:
    from support.server import Server

TREE = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*TREE.glob("*.md"), *TREE.glob("docs/**/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_lead_somewhere(document: Path) -> None:
    """A link into the tree names a file that is there."""
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())

    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_files_that_are_named_exist(document: Path) -> None:
    """`tests/…`, `src/…`, `docs/…` and their like are paths of this tree."""
    named = re.findall(
        r"(?<![\w/.])((?:tests|src|docs|agent|jail|tools|proto|images|openapi|clients)/[\w./-]*\w)(?![\w*])",
        document.read_text(),
    )

    missing = [name for name in named if not (TREE / name).exists()]
    assert missing == []


def test_every_setting_is_documented() -> None:
    """An operator finds each setting, and no setting that is not there."""
    first_column = re.findall(r"^\| (`.*?) \|", (TREE / "docs/settings.md").read_text(), re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", " ".join(first_column)))

    assert listed == set(Config.model_fields)


@pytest.mark.vm
def test_the_first_example_of_the_readme_runs(server: Server) -> None:
    """As printed, on the smaller template with the same interpreter."""
    (example,) = re.findall(r"```python\n(.*?)```", (TREE / "README.md").read_text(), re.DOTALL)
    program = example.replace('template="python-3.12"', 'template="python-3.12-bare"')
    assert program != example

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TERP_API_KEY": server.api_key, "TERP_BASE_URL": server.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.stderr == ""
    printed, duration_ms = done.stdout.split()
    assert printed == "499999500000"
    assert int(duration_ms) > 0
