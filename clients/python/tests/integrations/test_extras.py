"""What is imported, and what is said when it is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {
    "anthropic": ("anthropic", "terp[anthropic]"),
    "langchain": ("langchain_core", "terp[langchain]"),
    "openai_agents": ("agents", "terp[openai-agents]"),
    "openai_sandbox": ("agents", "terp[openai-agents]"),
}


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_nothing_is_imported_unless_used() -> None:
    roots = ["pydantic", *(package for package, _ in FRAMEWORKS.values())]

    loaded = python("import sys, terp.integrations.tools; print(*sys.modules)").split()
    alone = python("import sys, terp; print(*sys.modules)").split()

    assert not set(roots) & set(loaded)
    assert not [name for name in alone if name.startswith("terp.integrations")]


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_a_missing_package_is_named_by_its_extra(module: str) -> None:
    package, extra = FRAMEWORKS[module]
    program = f"""
import sys
sys.modules["{package}"] = None
try:
    import terp.integrations.{module}
except ImportError as error:
    print(error)
"""

    assert f"pip install '{extra}'" in python(program)
