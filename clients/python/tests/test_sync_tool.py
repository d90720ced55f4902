"""The converter from asynchronous to synchronous code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[3] / "tools" / "sync.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="the client alone, without the project's tools")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("sync_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "generated"),
    [
        ("async def f(): await g()", "def f(): g()"),
        ("async def f():\n    return (await g()).h", "def f():\n    return g().h"),
        ("async def f():\n    return (  await g() )['ä']", "def f():\n    return (  g() )['ä']"),
        ("async def f():\n    ä = 'ä', (await g())[0]", "def f():\n    ä = 'ä', g()[0]"),
        ("async def f():\n    async with a as b, c: pass", "def f():\n    with a as b, c: pass"),
        ("async def f():\n    return [x async for x in y if await x]", "def f():\n    return [x for x in y if x]"),
        ("from terp._async.x import AsyncFiles as A", "from terp._sync.x import Files as A"),
        ("from terp import pairs\npairs.sleep_async", "from terp import pairs\npairs.sleep"),
        ("class AsyncA:\n    def __aenter__(self) -> AsyncA: ...", "class A:\n    def __enter__(self) -> A: ..."),
        ("x.aclose()  # await AsyncSandbox.create", "x.close()  # Sandbox.create"),
        ('"""Do `await AsyncA.b()`."""\nx = "AsyncA"', '"""Do `A.b()`."""\nx = "AsyncA"'),
        ("async def f():\n    return f'{await g()}'", "def f():\n    return f'{g()}'"),
        ("Async = asynchronous = 1", "Async = asynchronous = 1"),
    ],
)
@pytest.mark.skipif(sys.version_info < (3, 12), reason="earlier tokenizers do not look into f-strings")
def test_conversion(tool, written: str, generated: str) -> None:
    """Keywords go, names change, all else stays as it is written."""
    assert tool.convert(written, name="x") == generated


def test_what_is_checked_in_is_what_is_generated() -> None:
    """Neither an edit nor a file more or less goes unnoticed."""
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_any_difference_is_noticed(tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed, a missing and a left-over file."""
    source, target = tmp_path / "_async", tmp_path / "_sync"
    source.mkdir()
    for name in ("same", "changed", "missing"):
        (source / f"{name}.py").write_text("async def f() -> None:\n    await g()\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PYTHON", tmp_path)
    monkeypatch.setattr(tool, "DIRECTORIES", ((source, target),))
    monkeypatch.setattr(sys, "argv", ["sync.py"])
    tool.main()
    with (target / "changed.py").open("a") as file:
        file.write("# by hand\n")
    (target / "missing.py").unlink()
    (target / "left.py").touch()
    monkeypatch.setattr(sys, "argv", ["sync.py", "--check"])

    assert tool.main() == 1
    assert (target / "left.py").exists()

    monkeypatch.setattr(sys, "argv", ["sync.py"])
    tool.main()
    monkeypatch.setattr(sys, "argv", ["sync.py", "--check"])
    assert tool.main() == 0
    assert {path.name for path in target.iterdir()} == {"same.py", "changed.py", "missing.py"}
