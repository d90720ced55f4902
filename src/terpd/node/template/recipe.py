"""
Recipes: what a template is made of, as TOML.

    name = "python-3.12"
    description = "…"
    base = "python-3.12-bare"       another recipe — or suite = "bookworm", a Debian release — or oci = "ubuntu:24.04"
    apt = ["curl"]                  Debian packages; only where the recipe names a suite itself
    python = "3.12"                 a CPython for /usr/local
    node = "node.txt"               Node and npm for /usr/local, from the wheel that this hash-locked file names
    requirements = "packages.txt"   Python packages, hash-locked, for the CPython that the recipe or a base of it brings
    modules = ["terp_kernels"]      folders beside the recipe: Python packages of our own, for that CPython
    npm = ["typescript@5.6.3"]      global npm packages, each with its exact version
    run = ["useradd me"]            shell commands that finish the root file system, run in it without a network
    warm = ["python3 -c pass"]      shell commands that a booted machine runs once before its snapshot is taken
    disk_gib = 10                   virtual size of the root disk
    [env]
    LANG = "C.UTF-8"
    [services]                      programs that run in the booted machine when its snapshot is taken, before `warm`:
    kernels = "python3 -m …"        each is ready when it listens on /run/terp/NAME.sock

Parsing touches no disk but the recipe's folder, and knows all rules, so that a build never fails on its input midway.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terpd.model.errors import InvalidRequest, TemplateNotFound

DEFAULT_DISK_GIB = 10
MAX_DISK_GIB = 1024
_MAX_BASES = 16  # deeper is a loop or a mistake

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_NPM = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*@\d+\.\d+\.\d+[A-Za-z0-9.+-]*")
_COMMAND = re.compile(r"[^\0\n]+")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE = re.compile(r"[a-z_][a-z0-9_]*")
_SERVICE = re.compile(r"[a-z0-9-]{1,64}")
_SOURCES = frozenset({".py", ".js"})
_FIELDS = frozenset(
    "name description base suite oci apt python node requirements modules npm run warm disk_gib env services".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    One recipe as written. Of `base`, `suite` and `oci` exactly one is set.

    `requirements` and `node` are the *contents* of the files the recipe names: they are what decides the result. So
    are `modules`: the content of each file by its path, "package/module.py".
    """

    name: str
    description: str
    base: str | None = None
    suite: str | None = None
    oci: str | None = None
    apt: Sequence[str] = ()
    python: str | None = None
    node: str | None = None
    requirements: str | None = None
    modules: Mapping[str, str] = field(default_factory=dict)
    npm: Sequence[str] = ()
    run: Sequence[str] = ()
    warm: Sequence[str] = ()
    disk_gib: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[str, str] = field(default_factory=dict)


def load_chain(recipes: Path, name: str) -> tuple[Recipe, ...]:
    """
    Return the recipe of *name* with all its bases, the first base first.

    Raises:
        TemplateNotFound: There is no such recipe, or a base of it is missing.
        InvalidRequest: A recipe breaks a rule; names the file and the field.
    """
    chain: list[Recipe] = []
    following: str | None = name
    while following is not None:
        if len(chain) == _MAX_BASES or following in {recipe.name for recipe in chain}:
            raise InvalidRequest(f"Recipe {name}: its bases form a loop, or there are more than {_MAX_BASES}")
        recipe = load(recipes, following)
        chain.insert(0, recipe)
        following = recipe.base
    _check_chain(chain)
    return tuple(chain)


def _check_chain(chain: Sequence[Recipe]) -> None:
    python = node = False
    for recipe in chain:
        python = python or recipe.python is not None
        node = node or recipe.node is not None
        if recipe.requirements is not None and not python:
            raise InvalidRequest(f"Recipe {recipe.name} has requirements, but neither it nor a base of it has a python")
        if recipe.modules and not python:
            raise InvalidRequest(f"Recipe {recipe.name} has modules, but neither it nor a base of it has a python")
        if recipe.npm and not node:
            raise InvalidRequest(f"Recipe {recipe.name} has npm packages, but neither it nor a base of it has a node")


def python_series(chain: Sequence[Recipe]) -> str | None:
    """The CPython that a chain's packages are for: the last one that it brings."""
    return next((recipe.python for recipe in reversed(chain) if recipe.python is not None), None)


def load(recipes: Path, name: str) -> Recipe:
    """Read and check `NAME.toml`. Raises as `load_chain`."""
    path = recipes / f"{name}.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(buildable(recipes)) or "none"
        raise TemplateNotFound(f"There is no recipe {name!r} in {recipes}; what can be built: {known}")
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from error
    if table.get("name") != name:
        raise InvalidRequest(f"{path}: name must be {name!r}, as the file is called; it is {table.get('name')!r}")
    return parse(table, files=path.parent, source=str(path))


def buildable(recipes: Path) -> list[str]:
    """Names of the recipes in the folder that do not need an OCI image, sorted."""
    return sorted(path.stem for path in recipes.glob("*.toml") if "oci" not in tomllib.loads(path.read_text()))


def bases(recipes: Path) -> frozenset[str]:
    """Names of the recipes that some recipe in the folder builds on."""
    found = (tomllib.loads(path.read_text()).get("base") for path in recipes.glob("*.toml"))
    return frozenset(base for base in found if isinstance(base, str))


def parse(table: Mapping[str, Any], *, files: Path, source: str) -> Recipe:
    """
    Check a recipe's table and return the recipe.

    Args:
        files: The folder against which the names of locked files are resolved.
        source: What to call the recipe in messages.
    """
    read = _Reader(table, source)
    if unknown := sorted(set(table) - _FIELDS):
        raise InvalidRequest(f"{source}: unknown field {unknown[0]!r}; fields are {', '.join(sorted(_FIELDS))}")
    origins = [name for name in ("base", "suite", "oci") if name in table]
    if len(origins) != 1:
        raise InvalidRequest(f"{source}: exactly one of base, suite and oci must be given; found {origins or 'none'}")
    if "apt" in table and "suite" not in table:
        raise InvalidRequest(f"{source}: apt packages are installed with the suite; put them into that recipe")
    python = read.text("python")
    if python is not None and not re.fullmatch(r"3\.\d{1,2}", python):
        raise InvalidRequest(f"{source}: python must be like '3.12': {python!r}")
    return Recipe(
        name=read.matching("name", _NAME),
        description=read.text("description") or "",
        base=read.text("base"),
        suite=read.text("suite"),
        oci=read.text("oci"),
        apt=read.texts("apt", _APT),
        python=python,
        node=read.locked(files, "node"),
        requirements=read.locked(files, "requirements"),
        modules=read.sources(files, "modules"),
        npm=read.texts("npm", _NPM),
        run=read.texts("run", _COMMAND),
        warm=read.texts("warm", _COMMAND),
        disk_gib=read.number("disk_gib", 1, MAX_DISK_GIB),
        env=read.environment("env"),
        services=read.services("services"),
    )


def merged_env(chain: Sequence[Recipe]) -> dict[str, str]:
    """The environment of a chain: a recipe's own values win over those of its bases."""
    return {name: value for recipe in chain for name, value in recipe.env.items()}


def merged_warm(chain: Sequence[Recipe]) -> tuple[str, ...]:
    return tuple(command for recipe in chain for command in recipe.warm)


def merged_services(chain: Sequence[Recipe]) -> dict[str, str]:
    """The commands of a chain's services by name: a recipe's own win over those of its bases."""
    return {name: command for recipe in chain for name, command in recipe.services.items()}


def disk_bytes(chain: Sequence[Recipe]) -> int:
    """Virtual size of the root disk: what the last recipe that speaks of it says."""
    given = [recipe.disk_gib for recipe in chain if recipe.disk_gib is not None]
    return (given[-1] if given else DEFAULT_DISK_GIB) * 1024**3


class _Reader:
    """Typed access to a TOML table, with messages that name the field."""

    def __init__(self, table: Mapping[str, Any], source: str) -> None:
        self._table = table
        self._source = source

    def text(self, name: str) -> str | None:
        value = self._table.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\n" in value:
            raise InvalidRequest(f"{self._source}: {name} must be a line of text: {value!r}")
        return value

    def matching(self, name: str, form: re.Pattern[str]) -> str:
        value = self.text(name)
        if value is None or not form.fullmatch(value):
            raise InvalidRequest(f"{self._source}: {name} must match {form.pattern}: {value!r}")
        return value

    def texts(self, name: str, form: re.Pattern[str]) -> tuple[str, ...]:
        values = self._table.get(name, [])
        if not isinstance(values, list):
            raise InvalidRequest(f"{self._source}: {name} must be a list: {values!r}")
        for value in values:
            if not isinstance(value, str) or not form.fullmatch(value):
                raise InvalidRequest(f"{self._source}: each of {name} must match {form.pattern}: {value!r}")
        return tuple(values)

    def number(self, name: str, least: int, most: int) -> int | None:
        value = self._table.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidRequest(f"{self._source}: {name} must be a whole number from {least} to {most}: {value!r}")
        return value

    def environment(self, name: str) -> dict[str, str]:
        values = self._table.get(name, {})
        if not isinstance(values, dict):
            raise InvalidRequest(f"{self._source}: {name} must be a table: {values!r}")
        for key, value in values.items():
            if not _ENV_NAME.fullmatch(key) or not isinstance(value, str) or "\n" in value or "\0" in value:
                raise InvalidRequest(f"{self._source}: {name}.{key} must be a variable name and a line of text")
        return dict(values)

    def services(self, name: str) -> dict[str, str]:
        values = self._table.get(name, {})
        if not isinstance(values, dict):
            raise InvalidRequest(f"{self._source}: {name} must be a table: {values!r}")
        for key, value in values.items():
            if not _SERVICE.fullmatch(key) or not isinstance(value, str) or not _COMMAND.fullmatch(value):
                raise InvalidRequest(f"{self._source}: {name}.{key} must be a name of a-z, 0-9 and - and a command")
        return dict(values)

    def sources(self, files: Path, name: str) -> dict[str, str]:
        """The files of the packages that the field names, by their paths."""
        found: dict[str, str] = {}
        for package in self.texts(name, _MODULE):
            if not (files / package / "__init__.py").is_file():
                raise InvalidRequest(f"{self._source}: each of {name} must be a Python package beside it: {package!r}")
            for path in sorted((files / package).iterdir()):
                if path.suffix in _SOURCES:
                    found[f"{package}/{path.name}"] = path.read_text()
        return found

    def locked(self, files: Path, name: str) -> str | None:
        """The contents of a hash-locked requirements file that the field names."""
        value = self.text(name)
        if value is None:
            return None
        path = files / value
        if Path(value).name != value or not path.is_file():
            raise InvalidRequest(f"{self._source}: {name} must be a file in the recipe's folder: {value!r}")
        content = path.read_text()
        pinned = sum(1 for line in content.splitlines() if line and line[0].isalnum())
        if pinned == 0 or content.count("==") < pinned or "--hash=sha256:" not in content:
            raise InvalidRequest(f"{path}: every package must be pinned with == and carry its hashes")
        return content
