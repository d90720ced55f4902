"""What the guests' kernels program makes of Jupyter's messages; it is the guests', and imported from where it is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from terpd.model import code

IMAGES = Path(__file__).parents[2] / "images"


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(IMAGES))
    yield importlib.import_module("terp_kernels.output")
    for name in [name for name in sys.modules if name.startswith("terp_kernels")]:
        del sys.modules[name]


def shown(output: ModuleType, *messages: tuple[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    lines: list[dict[str, Any]] = []
    of_run = output.Output(lines.append)
    for kind, content in messages:
        of_run.take(kind, content)
    return lines, of_run.finish()


def data(**forms: object) -> tuple[str, dict[str, Any]]:
    names = {"text": "text/plain", "html": "text/html", "png": "image/png", "json": "application/json"}
    return "display_data", {"data": {names[name]: form for name, form in forms.items()}}


def test_the_caps_are_the_hosts(output: ModuleType) -> None:
    """What one end sends, the other takes."""
    for name in ("MAX_RESULTS", "MAX_RESULT_BYTES", "MAX_RESULTS_BYTES", "MAX_TEXT_BYTES"):
        assert getattr(output, name) == getattr(code, name)


def test_forms_are_picked(output: ModuleType) -> None:
    """Lists of lines are joined, images lose their line breaks, a scalar is no JSON."""
    (line,), _ = shown(output, data(text=["a", "b"], png="aG\nk=\n", json=5))
    assert line == {"result": {"type": "image_png", "text": "ab", "png": "aGk=", "is_main": False}}


def test_colours_are_taken_out(output: ModuleType) -> None:
    error = {"ename": "E", "evalue": "\x1b[31mred\x1b[0m", "traceback": ["\x1b[0;31m---\x1b[0m\nline", "end"]}
    (line,), _ = shown(output, ("error", error))
    assert line == {"error": {"name": "E", "value": "red", "traceback": ["---", "line", "end"]}}


def test_a_progress_bar_is_not_a_hundred_results(output: ModuleType) -> None:
    """A display that is updated is shown as it was first and as it was last."""
    updates = [
        ("update_display_data", {"data": {"text/plain": str(n)}, "transient": {"display_id": "bar"}}) for n in range(99)
    ]
    lines, truncated = shown(output, data(text="first"), *updates)
    assert [line["result"]["text"] for line in lines] == ["first", "98"]
    assert not truncated


def test_what_is_too_large_is_left_out_and_named(output: ModuleType) -> None:
    """Of a result the largest forms, of text the end, of many results the last."""
    large = "x" * (output.MAX_RESULT_BYTES + 1)
    lines, truncated = shown(output, data(text="t", html=large), data(text=large))
    assert [set(line["result"]) for line in lines] == [{"type", "text", "is_main"}] * 2
    assert len(lines[1]["result"]["text"]) < output.MAX_RESULT_BYTES
    assert truncated == ["html", "text"]

    lines, truncated = shown(output, *[data(text="t")] * 70, ("stream", {"name": "stdout", "text": "é" * 700_000}))
    assert len(lines) == output.MAX_RESULTS + 1
    assert len(lines[-1]["text"].encode()) == output.MAX_TEXT_BYTES
    assert set(truncated) == {"results", "stdout"}


def test_what_is_no_json_is_left_out(output: ModuleType) -> None:
    (line,), _ = shown(output, data(text="t", json={"a": float("nan")}))
    assert "json" not in line["result"]
