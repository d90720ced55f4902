"""
Generate the synchronous half of the Python client, and of its tests, from the asynchronous one.

    python tools/sync.py            write what differs
    python tools/sync.py --check    change nothing; exit 1 when a generated file differs, is missing or is left over

What is meant is defined on the syntax tree (`Synchronous`); the text is edited token by token, so that comments and
layout survive, and the result must parse to exactly that tree. What differs by more than a name stands in
`terp/pairs.py`.
"""

from __future__ import annotations

import argparse
import ast
import io
import itertools
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / "clients" / "python"
DIRECTORIES = (
    (PYTHON / "src/terp/_async", PYTHON / "src/terp/_sync"),
    (PYTHON / "tests/_async", PYTHON / "tests/_sync"),
)

NAMES = {
    "_async": "_sync",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORD = re.compile(r"\b(?:await|async(?= (?:with|for|def)\b)) ")


def renamed(name: str) -> str:
    """`AsyncSandbox` is `Sandbox`, `sleep_async` is `sleep`; the rest stands in the table."""
    if name in NAMES:
        return NAMES[name]
    if name.startswith("Async") and len(name) > len("Async"):
        return name.removeprefix("Async")
    return name.removesuffix("_async")


def renamed_prose(text: str) -> str:
    """Convert a docstring or comment, examples in it included."""
    return _NAME.sub(lambda match: renamed(match[0]), _KEYWORD.sub("", text))


class Synchronous(ast.NodeTransformer):
    """The tree of a synchronous module for that of an asynchronous one."""

    def visit_Await(self, node: ast.Await) -> ast.AST:
        inner: ast.AST = self.visit(node.value)
        return inner

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.is_async = 0
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("name", "id", "attr", "arg", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                setattr(node, field, ".".join(map(renamed, value.split("."))))
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncWith | ast.AsyncFor):
            kind = getattr(ast, type(node).__name__.removeprefix("Async"))
            fields = dict(ast.iter_fields(node))
            node = ast.copy_location(kind(**fields), node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := _docstring(node)):
            docstring.value = renamed_prose(str(docstring.value))
        return node


def convert(source: str, *, name: str) -> str:
    """
    Return the synchronous module for *source*.

    Raises:
        ValueError: The edited text does not mean what the tree says; *name* is in the message.
    """
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    for row, start, end, text in sorted(_edits(source, tree), reverse=True):
        lines[row] = lines[row][:start] + text + lines[row][end:]
    result = "".join(lines)
    for node in ast.walk(ast.parse(result)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := _docstring(node)):
            result = result.replace(str(docstring.value), renamed_prose(str(docstring.value)))
    meant = ast.dump(Synchronous().visit(tree))
    if ast.dump(ast.parse(result)) != meant:
        raise ValueError(f"The converter does not know how to edit this file: {name}")
    return result


def _edits(source: str, tree: ast.Module) -> list[tuple[int, int, int, str]]:
    """Return (line, from column, to column, text), lines and columns from 0, columns in characters."""
    edits = []
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token, following in itertools.pairwise(tokens):
        row, column = token.start
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            edits.append((row - 1, column, following.start[1], ""))
        elif token.type == tokenize.NAME and renamed(token.string) != token.string:
            edits.append((row - 1, column, token.end[1], renamed(token.string)))
        elif token.type == tokenize.COMMENT:
            edits.append((row - 1, column, token.end[1], renamed_prose(token.string)))
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Await):
            edits.extend(_parentheses(node.value, lines))
    return edits


def _parentheses(node: ast.Await, lines: list[str]) -> list[tuple[int, int, int, str]]:
    """`(await x).y` needs them, `x.y` does not. Python's columns count UTF-8 bytes, ours characters."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    row, last = node.lineno - 1, node.end_lineno - 1
    start = len(lines[row].encode()[: node.col_offset].decode())
    end = len(lines[last].encode()[: node.end_col_offset].decode())
    if lines[row][start - 1 : start] != "(" or lines[last][end : end + 1] != ")":
        return []  # spread over lines; valid as it stays
    return [(row, start - 1, start, ""), (last, end, end + 1, "")]


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> ast.Constant | None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.value
    return None


def formatted(source: str, path: Path) -> str:
    """Sort imports and wrap lines anew: names got shorter."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        source = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout
    return source


def generate(source: Path, target: Path) -> str:
    origin = source.relative_to(PYTHON)
    head = f"# Generated from {origin} by tools/sync.py: change that one.\n"
    return formatted(head + convert(source.read_text(), name=str(source)), target)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the synchronous half of the Python client.")
    parser.add_argument("--check", action="store_true", help="only compare with what is checked in")
    check: bool = parser.parse_args().check
    wrong: list[Path] = []
    for source_directory, target_directory in DIRECTORIES:
        wanted = {
            target_directory / source.relative_to(source_directory): source
            for source in sorted(source_directory.rglob("*.py"))
        }
        for target, source in wanted.items():
            text = generate(source, target)
            if target.is_file() and target.read_text() == text:
                continue
            wrong.append(target)
            if not check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        for left_over in sorted(set(target_directory.rglob("*.py")) - set(wanted)):
            wrong.append(left_over)
            if not check:
                left_over.unlink()
    for path in wrong:
        print(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}", file=sys.stderr)
    if check and wrong:
        print("Run tools/sync.py and commit the result.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
