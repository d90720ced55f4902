"""
What MkDocs does beyond its own: one text stands in one place.

    <!-- include: ARCHITECTURE.md -->   the file of that path in the tree, with its links turned to pages of the site
    <!-- code: path/to/program.py -->   the same, as code
    <!-- generated: rest -->            a reference made from what it describes; all names are in GENERATED
"""

from __future__ import annotations

import asyncio
import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import commands
import rest

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

    from terpd.control.services import Services

TREE = Path(__file__).parents[2]
# Where texts of the tree that are outside of docs/ stand on the site.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture/index.md",
    "SECURITY.md": "architecture/security.md",
    "SPECIFICATION.md": "architecture/specification.md",
    "CHANGELOG.md": "architecture/changelog.md",
    "CONTRIBUTING.md": "architecture/contributing.md",
    "clients/python/README.md": "reference/python.md",
    "clients/js/README.md": "reference/javascript.md",
    "docs/adr": "adr/README.md",
}
_LANGUAGES = {".py": "python", ".ts": "ts"}
_MARK = re.compile(r"^<!-- (include|code|generated): (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_HIDDEN_TEST = re.compile(r"^<!-- test:.*?-->\n", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 MkDocs gives them
    """Fill in what is marked, and turn links out of docs/ to pages of the site; what has none becomes plain text."""
    here = page.file.src_uri

    def fill(found: re.Match[str]) -> str:
        kind, name = found.groups()
        if kind == "generated":
            return GENERATED[name]()
        if kind == "code":
            return f"```{_LANGUAGES[Path(name).suffix]}\n{(TREE / name).read_text()}```"
        return _with_site_links((TREE / name).read_text(), source=name, page=here)

    markdown = _with_site_links(_HIDDEN_TEST.sub("", markdown), source=f"docs/{here}", page=here)
    return _MARK.sub(fill, markdown)


def _with_site_links(text: str, *, source: str, page: str) -> str:
    """Return *text* of the file *source* with links as the page *page* needs them."""

    def turn(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None:
            return words
        return f"[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    parts = _FENCED.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(turn, part) for part in parts)


def _rest() -> str:
    return rest.render(json.loads((TREE / "openapi/terp-v1.json").read_text()))


def _terp() -> str:
    from terp.cli.app import app  # noqa: PLC0415  only the pages that show it need it

    return commands.render(app)


def _terpd() -> str:
    from terpd.daemon.main import app  # noqa: PLC0415  only the pages that show it need it

    return commands.render(app)


def _tools() -> str:
    from terpd.api.mcp.server import build_server  # noqa: PLC0415  only the pages that show it need it

    server = build_server(cast("Services", None))  # tools are described without being run
    rows = ["| tool | | |", "|---|---|---|"]
    for tool in asyncio.run(server.list_tools()):
        properties, required = tool.input_schema["properties"], tool.input_schema.get("required", [])
        names = [f"`{name}`" for name in required] + [f"*{name}*" for name in properties if name not in required]
        about = " ".join((tool.description or "").split())
        rows.append(f"| `{tool.name}` | {about} | {', '.join(names)} |")
    return "\n".join([*rows, "", "Arguments in italics may be left out.", ""])


def _metrics() -> str:
    from terpd.api.metrics import Metrics  # noqa: PLC0415  only the pages that show it need it

    rows = ["| figure | | |", "|---|---|---|"]
    for family in Metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(f"| `{name}` | {family.documentation} | {family.type} |")
    return "\n".join(rows)


def _errors() -> str:
    """The server's codes, in the words of the SDK's class of the same name."""
    import terp  # noqa: PLC0415  only the pages that show it need it

    from terpd.api.errors import status_of  # noqa: PLC0415
    from terpd.model import errors  # noqa: PLC0415

    kinds = [errors.TerpError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    rows = ["| code | status | class in the SDKs | |", "|---|---|---|---|"]
    for kind in sorted(kinds[1:], key=lambda kind: kind.code):
        if kind.__module__ == errors.__name__:  # others are of operators' commands
            about = (getattr(terp, kind.__name__).__doc__ or "").strip().splitlines()[0]
            rows.append(f"| `{kind.code}` | {status_of(kind(''))} | `{kind.__name__}` | {about} |")
    return "\n".join(rows)


GENERATED: dict[str, Callable[[], str]] = {
    "rest": _rest,
    "terp": _terp,
    "terpd": _terpd,
    "tools": _tools,
    "metrics": _metrics,
    "errors": _errors,
}
