"""Every example of the documents is what it claims to be: programs compile and use names that exist, commands parse."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer
from _pytest.mark.structures import ParameterSet
from support.examples import TREE, Example, examples
from support.guides import GUIDES, programs
from terp.cli.app import app as terp

from terpd.api.metrics import Metrics
from terpd.daemon.config import Config
from terpd.daemon.main import app as terpd
from terpd.model.webhook import EventType

COMMANDS = {"terp": terp, "terpd": terpd}


def test_python_uses_what_there_is(tmp_path: Path) -> None:
    """A type checker finds every name, argument and attribute of ours; a guide's blocks are one program."""
    for guide in GUIDES:
        for number, program in enumerate(programs(guide)):
            (tmp_path / f"guide_{guide.stem.replace('-', '_')}_{number}.py").write_text(program)
    for number, example in enumerate(_python_elsewhere()):
        (tmp_path / f"example_{number}.py").write_text(f"# {example}\n{example.code}")

    options = ["--config-file=", "--ignore-missing-imports", "--check-untyped-defs"]
    options += ["--disable-error-code=import-untyped", f"--cache-dir={tmp_path / 'cache'}"]
    mypy = [sys.executable, "-m", "mypy", *options, *_sorted_programs(tmp_path)]
    checked = subprocess.run(mypy, cwd=TREE, capture_output=True, text=True, timeout=280, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def _python_elsewhere() -> Sequence[Example]:
    return [example for example in examples("python") if example.document not in GUIDES]


def _sorted_programs(directory: Path) -> Sequence[str]:
    found = sorted(str(path) for path in directory.glob("*.py"))
    assert len(found) > len(GUIDES)
    return found


def _commands() -> Iterator[ParameterSet]:
    """Lines of shell examples that begin with one of our commands, those behind && and | included."""
    for example in examples("sh", "bash"):
        for words in _lines(example.code):
            for part in _split(words):
                # Variables for it alone stand before it.
                command = list(itertools.dropwhile(lambda word: "=" in word or word == "sudo", part))
                name = Path(command[0]).name if command else ""
                if name in COMMANDS:
                    yield pytest.param(COMMANDS[name], command[1:], id=f"{example} {' '.join(command)}")


def _lines(code: str) -> Iterator[list[str]]:
    """Words of each command line, those that go on over several lines included."""
    begun = ""
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        begun += line
        try:
            yield shlex.split(begun, comments=True)
        except ValueError:  # a quotation that ends in a line to come
            begun += "\n"
        else:
            begun = ""
    assert not begun, begun


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in {"&&", "||", "|", ";"}:
            yield part
            part = []
        else:
            part.append(word)
    yield part


@pytest.mark.parametrize(("app", "words"), list(_commands()))
def test_commands_parse(app: typer.Typer, words: list[str]) -> None:
    """The command's own parser takes them: the command is there, and so are its options; it is not run."""
    command = typer.main.get_command(app)
    while group := getattr(command, "commands", None):
        name, *words = words
        assert name in group, f"no command {name}"
        command = group[name]
    command.make_context(command.name, list(words))


def test_a_command_that_is_not_there_is_found_out() -> None:
    """The check above is one that can fail."""
    with pytest.raises(Exception, match="no-such-option"):  # the parser's own class is not public
        test_commands_parse(terp, ["create", "--no-such-option"])
    with pytest.raises(AssertionError, match="no command nothing"):
        test_commands_parse(terp, ["nothing"])


@pytest.mark.parametrize("example", examples("json"), ids=str)
def test_json_parses(example: Example) -> None:
    json.loads(example.code)


@pytest.mark.parametrize("example", examples("toml"), ids=str)
def test_settings_are_settings(example: Example) -> None:
    """TOML of the operator's pages is a file that `terpd serve` takes; elsewhere it is a recipe."""
    content = tomllib.loads(example.code)

    if "operate" in example.document.parts:
        Config.model_validate(content)
    else:
        assert content["name"]


def test_every_event_and_figure_is_told() -> None:
    """Of webhooks, by name; of monitoring, those that the text points out."""
    webhooks = (TREE / "docs/operate/webhooks.md").read_text()
    assert {event for event in EventType if f"`{event}`" not in webhooks} == set()

    named = set(re.findall(r"`(terp_\w+)`", (TREE / "docs/operate/monitoring.md").read_text()))
    families = {family.name for family in Metrics().registry.collect()}
    assert {name for name in named if name.removesuffix("_total") not in families} == set()
