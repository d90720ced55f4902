"""Node.js and npm for the root file system, out of the wheel that packages Node's own binaries, and npm packages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from terpd.node.template import packages
from terpd.node.template.chroot import run_in
from terpd.node.template.command import BuildFailed, run

_NPM = "lib/node_modules/npm"
_COMMANDS = {"npm": "npm-cli.js", "npx": "npx-cli.js"}
_UNUSED = ("docs", "man", "tap-snapshots")


def install(tree: Path, lock: str) -> None:
    """
    Put node, npm and npx into /usr/local of *tree*.

    Args:
        lock: Hash-locked requirements naming the wheel.

    Raises:
        BuildFailed: The wheel is not to be had, has another layout, or its node does not run there.
    """
    local = tree / "usr/local"
    unpacked = tree.with_name(f"{tree.name}.node")
    packages.fetch(lock, Path(sys.executable), "--target", unpacked)
    source = next((path.parent.parent for path in unpacked.glob("*/bin/node")), None)
    if source is None:
        raise BuildFailed("The wheel of the recipe's node lock holds no bin/node")
    (local / "bin").mkdir(parents=True, exist_ok=True)
    run(["strip", "-o", local / "bin/node", source / "bin/node"], timeout_s=120)
    (local / "bin/node").chmod(0o755)
    shutil.copytree(source / _NPM, local / _NPM, symlinks=True)
    for name in _UNUSED:
        shutil.rmtree(local / _NPM / name, ignore_errors=True)
    for command, script in _COMMANDS.items():
        (local / _NPM / "bin" / script).chmod(0o755)
        (local / "bin" / command).symlink_to(f"../{_NPM}/bin/{script}")
    shutil.rmtree(unpacked)
    run_in(tree, ["npm", "--version"])


def install_packages(tree: Path, wanted: Sequence[str]) -> None:
    """
    Install npm packages for everybody. Their install scripts do not run: this happens on the host.

    Args:
        wanted: Each as name@version.
    """
    local = tree / "usr/local"
    run(
        [
            *(local / "bin/node", local / _NPM / "bin/npm-cli.js", "install", "--global", "--prefix", local),
            *("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", *wanted),
        ],
        timeout_s=900,
    )
