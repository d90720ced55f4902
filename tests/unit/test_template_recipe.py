"""Recipes: what is read, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from terpd.model.errors import InvalidRequest, TemplateNotFound
from terpd.node.template import recipe

SHIPPED = Path(__file__).parents[2] / "images"
LOCKED = "numpy==2.0.0 \\\n    --hash=sha256:00\n"


def parsed(files: Path, **fields: Any) -> recipe.Recipe:
    return recipe.parse({"name": "mine", **fields}, files=files, source="mine.toml")


def write(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.toml").write_text(f'name = "{name}"\n{body}')


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    """Every recipe that is shipped parses, together with its bases, and tells what it is."""
    chain = recipe.load_chain(SHIPPED, path.stem)

    assert chain[-1].name == path.stem
    assert chain[-1].description
    assert chain[0].base is None


def test_shipped_locks_name_no_index() -> None:
    """Locked package lists hold wherever packages are mirrored: no address is in them."""
    locks = sorted(SHIPPED.glob("*.txt"))

    assert locks
    assert not [path.name for path in locks if "://" in path.read_text()]


def test_what_needs_an_oci_image_is_not_offered() -> None:
    """A recipe that this build cannot make is not named among those that can be built."""
    offered = recipe.buildable(SHIPPED)

    assert "debian-12" in offered
    assert "ubuntu-24.04" not in offered


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"suite": "bookworm", "colour": "red"}, "colour"),
        ({}, "exactly one"),
        ({"suite": "bookworm", "base": "debian-12"}, "exactly one"),
        ({"base": "debian-12", "apt": ["git"]}, "suite"),
        ({"suite": "bookworm", "apt": ["git; rm -rf /"]}, "apt"),
        ({"suite": "bookworm", "apt": "git"}, "list"),
        ({"suite": "bookworm", "python": "3"}, "python"),
        ({"suite": "bookworm", "npm": ["typescript"]}, "npm"),
        ({"suite": "bookworm", "npm": ["typescript@latest"]}, "npm"),
        ({"suite": "bookworm", "npm": ["--prefix=/@1.0.0"]}, "npm"),
        ({"suite": "bookworm", "disk_gib": 0}, "1 to 1024"),
        ({"suite": "bookworm", "disk_gib": True}, "whole number"),
        ({"suite": "bookworm", "env": {"A B": "c"}}, "env.A B"),
        ({"suite": "bookworm", "env": {"A": "two\nlines"}}, "env.A"),
        ({"suite": "bookworm", "warm": ["two\nlines"]}, "warm"),
        ({"suite": "bookworm", "requirements": "missing.txt"}, "missing.txt"),
        ({"suite": "bookworm", "requirements": "../secret.txt"}, "secret.txt"),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, fields: dict[str, Any], word: str) -> None:
    """What a recipe may not say is refused before anything is built, with a message that names it."""
    with pytest.raises(InvalidRequest, match=word) as caught:
        parsed(tmp_path, **fields)

    assert "mine.toml" in caught.value.detail


@pytest.mark.parametrize("content", ["numpy\n", "numpy==2.0.0\n", "numpy>=2 \\\n    --hash=sha256:00\n", ""])
def test_requirements_must_be_locked(tmp_path: Path, content: str) -> None:
    """A package list without versions or hashes is refused: two builds of it could differ."""
    (tmp_path / "packages.txt").write_text(content)

    with pytest.raises(InvalidRequest, match="pinned"):
        parsed(tmp_path, base="b", requirements="packages.txt")


def test_a_lock_is_taken_by_content(tmp_path: Path) -> None:
    """The recipe carries what the locked file says, so that a change of the file is a change of the recipe."""
    (tmp_path / "packages.txt").write_text(LOCKED)

    assert parsed(tmp_path, base="b", requirements="packages.txt").requirements == LOCKED


def test_bases_that_form_a_loop_are_refused(tmp_path: Path) -> None:
    """Two recipes that build on each other are an error, not an endless build."""
    write(tmp_path, "a", 'base = "b"')
    write(tmp_path, "b", 'base = "a"')

    with pytest.raises(InvalidRequest, match="loop"):
        recipe.load_chain(tmp_path, "a")


@pytest.mark.parametrize("name", ["missing", "../a", "A", ""])
def test_an_unknown_name_lists_what_can_be_built(tmp_path: Path, name: str) -> None:
    """A name without a recipe, or one that is no name, is answered with those that are there."""
    write(tmp_path, "a", 'suite = "bookworm"')

    with pytest.raises(TemplateNotFound, match="can be built: a"):
        recipe.load_chain(tmp_path, name)


@pytest.mark.parametrize(
    ("body", "word"), [('requirements = "packages.txt"', "python"), ('npm = ["typescript@5.6.3"]', "node")]
)
def test_packages_need_their_interpreter(tmp_path: Path, body: str, word: str) -> None:
    """Packages for an interpreter that no recipe of the chain brings are refused before anything is built."""
    (tmp_path / "packages.txt").write_text(LOCKED)
    write(tmp_path, "a", 'suite = "bookworm"')
    write(tmp_path, "b", f'base = "a"\n{body}')

    with pytest.raises(InvalidRequest, match=word):
        recipe.load_chain(tmp_path, "b")


def test_a_recipe_wins_over_its_base(tmp_path: Path) -> None:
    """Environment and disk size are the last word of the chain; warm commands add up, the base's first."""
    write(tmp_path, "a", 'suite = "bookworm"\nwarm = ["one"]\ndisk_gib = 3\n[env]\nX = "a"\nY = "a"')
    write(tmp_path, "b", 'base = "a"\nwarm = ["two"]\n[env]\nX = "b"')

    chain = recipe.load_chain(tmp_path, "b")

    assert recipe.merged_env(chain) == {"X": "b", "Y": "a"}
    assert recipe.merged_warm(chain) == ("one", "two")
    assert recipe.disk_bytes(chain) == 3 * 1024**3
    assert recipe.bases(tmp_path) == {"a"}


def test_modules_are_their_contents(tmp_path: Path) -> None:
    """A package of ours is the text of its files: a change of one makes another layer."""
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text("x = 1\n")
    (package / "notes.txt").write_text("not installed")

    found = parsed(tmp_path, base="python-3.12", modules=["ours"])

    assert found.modules == {"ours/__init__.py": "", "ours/main.py": "x = 1\n"}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"modules": ["absent"]}, "modules"),
        ({"modules": ["../ours"]}, "modules"),
        ({"services": {"a b": "true"}}, "services"),
        ({"services": {"a": "two\nlines"}}, "services"),
        ({"services": ["true"]}, "services"),
    ],
)
def test_services_and_modules_have_rules(tmp_path: Path, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        parsed(tmp_path, base="python-3.12", **fields)


def test_services_of_a_chain() -> None:
    """The interpreter has the kernels, and so has what is built on it."""
    chain = recipe.load_chain(SHIPPED, "code-interpreter")

    assert set(recipe.merged_services(chain)) == {"kernels"}
    assert "terp_kernels/__main__.py" in chain[-1].modules
