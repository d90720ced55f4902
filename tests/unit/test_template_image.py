"""The ext4 image: whole, sparse, and named by its content."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest

from terpd.node.template import artifact, image
from terpd.node.template.command import BuildFailed

GIB = 1024**3


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("sandbox\n")
    return tree


def test_an_image_is_large_inside_and_small_outside(tmp_path: Path, tree: Path) -> None:
    """10 GiB of disk with almost nothing on it take a few megabytes, pass a check, and cannot be written to."""
    root = tmp_path / "root.ext4"

    image.make(tree, root, 10 * GIB)

    assert root.stat().st_size == 10 * GIB
    assert artifact.allocated_bytes(root) < 32 * 1024**2
    assert stat.S_IMODE(root.stat().st_mode) == 0o444
    subprocess.run(["e2fsck", "-f", "-n", root], check=True, capture_output=True)
    groups = subprocess.run(["dumpe2fs", root], check=True, capture_output=True).stdout.decode()
    assert groups.count("ITABLE_ZEROED") == len(re.findall(r"^Group \d+:", groups, re.MULTILINE)) == 80
    shown = subprocess.run(["debugfs", "-R", "cat /etc/hostname", root], check=True, capture_output=True)
    assert shown.stdout == b"sandbox\n"


def test_a_tree_that_does_not_fit_is_an_error(tmp_path: Path, tree: Path) -> None:
    """An image too small for its content is refused."""
    (tree / "large").write_bytes(b"x" * 8 * 1024**2)

    with pytest.raises(BuildFailed, match="mke2fs"):
        image.make(tree, tmp_path / "root.ext4", 4 * 1024**2)


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    """Holes and written zeros are the same; content, its place and the size are not."""
    block = 64 * 1024
    cases = {
        "sparse": [(0, b"a"), (5 * block, b"b")],
        "dense": [(0, b"a" + bytes(5 * block - 1) + b"b" + bytes(3 * block - 1))],
        "moved": [(0, b"a"), (6 * block, b"b")],
        "changed": [(0, b"a"), (5 * block, b"c")],
    }
    digests = {}
    for name, writes in cases.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(8 * block)
            for offset, data in writes:
                file.seek(offset)
                file.write(data)
        digests[name] = image.digest(tmp_path / name)
    with (tmp_path / "sparse").open("r+b") as file:
        file.truncate(9 * block)

    assert digests["sparse"] == digests["dense"]
    assert len({*digests.values(), image.digest(tmp_path / "sparse")}) == 4
