"""The public names: complete, documented, the same in both clients, and the same errors as the server's."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import terp
from terp import errors, models

CLIENT = Path(terp.__file__).parent
README = CLIENT.parent.parent / "README.md"
SERVER_ERRORS = CLIENT.parents[3] / "src/terpd/model/errors.py"

TWINS = [(name, name.removeprefix("Async")) for name in terp.__all__ if name.startswith("Async")]
RENAMED = {"aclose": "close"}
SAY_ENOUGH = {"exists", "stat"}  # their names, or what they raise, are all there is to say


def members(kind: type) -> dict[str, Callable[..., object]]:
    """The public methods, those of its parts included."""
    found = ((name, getattr(kind, name)) for name in dir(kind) if not name.startswith("_"))
    return {name: getattr(value, "__func__", value) for name, value in found if inspect.isroutine(value)}


def defined(module: object) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__.startswith(module.__name__)  # type: ignore[attr-defined]
    }


def test_all_errors_and_models_are_exported() -> None:
    """What a caller may meet can be imported from the root."""
    assert defined(errors) | defined(models) <= set(terp.__all__)
    assert terp.__all__ == sorted(terp.__all__)


@pytest.mark.parametrize("name", sorted(set(terp.__all__) - {"CodeEvent", "ExecEvent"}))
def test_public_names_are_documented(name: str) -> None:
    """Each class says what it is, each public method more than its name does, unless that is all there is."""
    value = getattr(terp, name)

    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what dataclass writes when nobody did


@pytest.mark.parametrize(("written", "generated"), TWINS)
def test_both_clients_have_the_same_surface(written: str, generated: str) -> None:
    """The same methods with the same parameters and defaults."""
    ours, theirs = members(getattr(terp, written)), members(getattr(terp, generated))

    assert {RENAMED.get(name, name) for name in ours} == set(theirs)
    for name, function in ours.items():
        other = theirs[RENAMED.get(name, name)]
        assert bool(function.__doc__) == bool(other.__doc__)
        parameters = inspect.signature(function).parameters.values()
        others = inspect.signature(other).parameters.values()
        assert [(p.name, p.kind, p.default) for p in parameters] == [(p.name, p.kind, p.default) for p in others]


@pytest.mark.parametrize(("written", "generated"), TWINS)
def test_methods_are_documented(written: str, generated: str) -> None:
    """Each public method says what it does, in both clients."""
    for kind in (getattr(terp, written), getattr(terp, generated)):
        for name, function in members(kind).items():
            assert function.__doc__ or name in SAY_ENOUGH, (kind, name)


def test_every_error_has_one_root() -> None:
    """One except clause catches all."""
    kinds = [value for value in vars(terp).values() if inspect.isclass(value) and issubclass(value, Exception)]

    assert len(kinds) > 20
    assert all(issubclass(kind, terp.TerpError) for kind in kinds)


@pytest.mark.skipif(not SERVER_ERRORS.is_file(), reason="the client alone, without the server's sources")
def test_errors_mirror_the_server_s() -> None:
    """Every error of the server has its namesake here, under the same parent and with the same code."""
    for node in ast.parse(SERVER_ERRORS.read_text()).body:
        if not isinstance(node, ast.ClassDef) or node.name == "TerpError":
            continue
        kind = getattr(errors, node.name)
        (base,) = node.bases
        assert isinstance(base, ast.Name)
        assert kind.__base__ is getattr(errors, base.id)
        (code,) = [
            statement.value.value
            for statement in node.body
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "code"
        ]
        assert kind.code == code


def test_the_picture_of_errors_is_complete() -> None:
    """The tree at the top of the module names each error."""
    assert defined(errors) <= set(re.findall(r"\w+", errors.__doc__ or ""))


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
def test_readme_s_examples_use_what_is_there(code: str) -> None:
    """They compile, import public names only, and call methods that exist."""
    tree = compile(code, "README.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    known = {name for kind in terp.__all__ for name in dir(getattr(terp, kind))}

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "terp":
            assert {alias.name for alias in node.names} <= set(terp.__all__)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr in known | {"run", "open", "append", "write_bytes", "date"}


def test_only_httpx_is_needed() -> None:
    """The library without its extra imports the standard library and httpx."""
    for path in CLIENT.rglob("*.py"):
        if {"cli", "integrations"} & set(path.parts):  # which have extras; tests/integrations tells what they import
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {"terp", "httpx", *sys.stdlib_module_names}, path
