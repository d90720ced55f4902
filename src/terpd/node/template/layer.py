"""
Root file systems as layers: one for each recipe of a chain, made from a copy of the one before.

    rootfs/<inputs>/{tree/, layer.json}

`inputs` names all that a layer was made of. The folder is root's alone: guests' set-uid programs are in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terpd.node.template import apt, artifact, cpython, nodejs, packages, rootfs, trust
from terpd.node.template.chroot import run_in
from terpd.node.template.command import BuildFailed
from terpd.node.template.kernel import Kernel
from terpd.node.template.progress import Progress, megabytes, step
from terpd.node.template.recipe import Recipe, merged_env, python_series

_RUN_TIMEOUT_S = 900
_GENERATION = 1  # raise it when this code makes something else of the same inputs


@dataclass(frozen=True, slots=True)
class Layer:
    recipe: str
    inputs: str
    directory: Path

    @property
    def tree(self) -> Path:
        return self.directory / "tree"


class Layers:
    """
    The layers under one TERP_HOME. Its methods want the lock of `folder(home)` held by the caller.

    Args:
        authorities: Folder with certificates that guests trust besides Debian's.
        force: Make each layer anew even if it is there.
    """

    def __init__(self, home: Path, kernel: Kernel, authorities: Path, *, force: bool, progress: Progress) -> None:
        self._folder = folder(home)
        self._kernel = kernel
        self._authorities = authorities
        self._force = force
        self._progress = progress

    def ensure(self, chain: Sequence[Recipe]) -> Layer:
        """Return the layer of the last recipe of *chain*, made with those below it when missing. Raises BuildFailed."""
        layer: Layer | None = None
        for number, recipe in enumerate(chain, start=1):
            layer = self._ensure_one(chain[:number], recipe, layer)
        if layer is None:
            raise BuildFailed("A template needs at least one recipe")
        return layer

    def name(self, chain: Sequence[Recipe]) -> str:
        """The inputs of the last layer of *chain*, whether it is there or not."""
        inputs: str | None = None
        for number, recipe in enumerate(chain, start=1):
            inputs = artifact.digest_of(self._inputs(chain[:number], recipe, inputs))
        return inputs or ""

    def _ensure_one(self, chain: Sequence[Recipe], recipe: Recipe, base: Layer | None) -> Layer:
        inputs = artifact.digest_of(self._inputs(chain, recipe, base.inputs if base else None))
        layer = Layer(recipe.name, inputs, self._folder / inputs)
        with step(self._progress, f"root file system {recipe.name}") as making:
            if not self._force and artifact.read_json(layer.directory / "layer.json") is not None:
                making.note = "cached"
                return layer
            with artifact.building(self._folder, "layer") as temporary:
                self._make(temporary / "tree", chain, recipe, base)
                artifact.write_json(temporary / "layer.json", {"recipe": recipe.name, "inputs": inputs})
                artifact.commit(temporary, layer.directory)
            making.note = megabytes(artifact.allocated_bytes(layer.tree))
        return layer

    def _inputs(self, chain: Sequence[Recipe], recipe: Recipe, base: str | None) -> dict[str, Any]:
        made_of: dict[str, Any] = {
            "generation": _GENERATION,
            "base": base,
            "env": environment(chain),
            "npm": list(recipe.npm),
            "run": list(recipe.run),
            "node": recipe.node,
            "requirements": recipe.requirements,
        }
        if recipe.modules:
            made_of["modules"] = dict(recipe.modules)
        if recipe.suite is not None:
            made_of["suite"] = recipe.suite
            made_of["apt"] = [*recipe.apt, *rootfs.PACKAGES, *rootfs.DPKG_OPTIONS]
            made_of["repositories"] = [repository.line() for repository in apt.repositories(recipe.suite)]
            made_of["kernel"] = self._kernel.digest
            made_of["authorities"] = trust.fingerprint(self._authorities)
        if recipe.python is not None:
            interpreter = cpython.ensure_interpreter(recipe.python)
            made_of["python"] = [interpreter.version, interpreter.build, cpython.START_HOOK.read_text()]
        return made_of

    def _make(self, tree: Path, chain: Sequence[Recipe], recipe: Recipe, base: Layer | None) -> None:
        if base is not None:
            with step(self._progress, f"{recipe.name}: copy {base.recipe}"):
                artifact.copy_tree(base.tree, tree)
        if recipe.suite is not None:
            with step(self._progress, f"{recipe.name}: install Debian {recipe.suite}"):
                rootfs.bootstrap(tree, recipe.suite, apt.repositories(recipe.suite), recipe.apt)
                rootfs.prepare(tree, self._kernel)
            with step(self._progress, f"{recipe.name}: trust the host's authorities") as trusting:
                trusting.note = f"{trust.install(tree, self._authorities)} added"
        if recipe.python is not None:
            interpreter = cpython.ensure_interpreter(recipe.python)
            with step(self._progress, f"{recipe.name}: install CPython {interpreter.version}"):
                cpython.install(tree, interpreter)
        if recipe.node is not None:
            with step(self._progress, f"{recipe.name}: install Node"):
                nodejs.install(tree, recipe.node)
        if recipe.npm:
            with step(self._progress, f"{recipe.name}: install npm packages"):
                nodejs.install_packages(tree, recipe.npm)
        series = python_series(chain)
        if recipe.requirements is not None and series is not None:
            with step(self._progress, f"{recipe.name}: install Python packages"):
                packages.install(tree, recipe.requirements, series)
        if recipe.modules and series is not None:
            with step(self._progress, f"{recipe.name}: install modules"):
                packages.install_modules(tree, recipe.modules, series)
        for command in recipe.run:
            with step(self._progress, f"{recipe.name}: run {command[:60]}"):
                run_in(tree, ["sh", "-c", command], timeout_s=_RUN_TIMEOUT_S)
        rootfs.write_environment(tree, environment(chain))

    def prune(self, keep: Layer, bases: Collection[str]) -> None:
        """Remove what *keep* has replaced, and *keep* itself if no recipe (its name among *bases*) builds on it."""
        for record in self._folder.glob("*/layer.json"):
            known = artifact.read_json(record) or {}
            outdated = known.get("inputs") != keep.inputs or keep.recipe not in bases
            if known.get("recipe") == keep.recipe and outdated:
                artifact.remove(record.parent)


def environment(chain: Sequence[Recipe]) -> dict[str, str]:
    """What every process in a guest of this chain starts with."""
    return {**trust.ENVIRONMENT, **merged_env(chain)}


def folder(home: Path) -> Path:
    """Where the layers are; made if it is not there."""
    path = home / "rootfs"
    path.mkdir(parents=True, mode=0o700, exist_ok=True)
    return path
