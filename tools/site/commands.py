"""The reference of a command line, from its own parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer


def render(app: typer.Typer) -> str:
    """Return Markdown with a heading for each command, those of groups included."""
    root = typer.main.get_command(app)
    return "\n".join(_commands(root, str(root.name or "")))


def _commands(command: Any, path: str) -> Iterator[str]:
    for name, child in getattr(command, "commands", {}).items():
        if child.hidden:
            continue
        yield _one(child, f"{path} {name}")
        yield from _commands(child, f"{path} {name}")


def _one(command: Any, path: str) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join([path, *(["[OPTIONS]"] if options else []), *(_metavar(each) for each in arguments)])
    if hasattr(command, "commands"):
        usage += " COMMAND"
    parts = [f"{'#' * len(path.split())} {path}\n", f"```text\n{usage}\n```\n", _prose(command.help or "")]
    if arguments or options:
        parts.append("| | |\n|---|---|")
        parts += [f"| `{_metavar(each).strip('[]')}` | {_told(each)} |" for each in arguments]
        parts += [f"| {_names(each)} | {_told(each)} |" for each in options]
        parts.append("")
    return "\n".join(parts)


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]")
    if argument.nargs == -1:
        name = f"{name.removesuffix('...')}..."
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {(option.metavar or option.opts[0].lstrip('-').replace('-', '_')).upper()}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _told(parameter: Any) -> str:
    text = _cell(parameter.help or "")
    if text and text[-1] not in ".!?":
        text += "."
    told = [text]
    if parameter.param_type_name == "option" and not parameter.is_flag:
        if parameter.multiple and "Repeatable" not in text:
            told.append("May be given several times.")
        elif parameter.required:
            told.append("Required.")
        elif parameter.default not in (None, "", False) and not callable(parameter.default):
            told.append(f"Default: `{getattr(parameter.default, 'value', parameter.default)}`.")
    return " ".join(filter(None, told))


def _prose(text: str) -> str:
    """Help as Markdown: what follows "Example:" is set as code."""
    text = text.replace("\f", "").strip()
    text = re.sub(r"^Examples?: (.+)$", r"Example:\n\n```sh\n\1\n```", text, flags=re.MULTILINE)
    return re.sub(r"(?<![\w`])<(\w+)>", r"`<\1>`", text) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
