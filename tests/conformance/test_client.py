"""The published client, unmodified, against a real server: every case of client/, each in a process of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.orkestr_client import CASES_DIR, OrkestrClient

pytestmark = pytest.mark.vm

_THEMES = (
    "lifecycle",
    "execs",
    "commands",
    "kernels",
    "files",
    "refusals",
    "pausing",
    "snapshots",
    "webhooks",
    "figures",
    "volumes",
)


def _cases(path: Path) -> list[str]:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if not node.name.startswith("_")]


@pytest.mark.parametrize(
    ("theme", "case"), [(theme, case) for theme in _THEMES for case in _cases(CASES_DIR / f"{theme}.py")]
)
def test_case(client: OrkestrClient, theme: str, case: str) -> None:
    """The case's docstring says what holds."""
    client.run(theme, case)


@pytest.mark.parametrize("case", _cases(CASES_DIR / "networks.py"))
def test_case_with_a_network(enclosed_client: OrkestrClient, case: str) -> None:
    """The case's docstring says what holds."""
    enclosed_client.run("networks", case)
