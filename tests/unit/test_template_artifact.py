"""Artifacts are whole or not there, and one builder at a time works on one."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from terpd.node.template import artifact


def test_a_build_appears_whole(tmp_path: Path) -> None:
    """What was committed is under its final name, and no temporary is left."""
    with artifact.locked(tmp_path, "a"), artifact.building(tmp_path, "a") as temporary:
        (temporary / "part").write_text("new")
        artifact.commit(temporary, tmp_path / "final")

    assert (tmp_path / "final/part").read_text() == "new"
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_newer_build_replaces_the_older_as_a_whole(tmp_path: Path) -> None:
    """Nothing of the former content survives a commit over it."""
    for name in ("old", "new"):
        with artifact.locked(tmp_path, "a"), artifact.building(tmp_path, "a") as temporary:
            (temporary / name).touch()
            artifact.commit(temporary, tmp_path / "final")

    assert [path.name for path in (tmp_path / "final").iterdir()] == ["new"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """An error midway removes the temporary and touches nothing else."""

    def fail_midway() -> None:
        with artifact.building(tmp_path, "a") as temporary:
            (temporary / "part").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()

    assert list(tmp_path.iterdir()) == []


def test_the_next_builder_clears_a_crashed_build_of_the_same_name(tmp_path: Path) -> None:
    """Whoever has the lock removes what a dead builder left under that name, and nobody else's work."""
    (tmp_path / ".tmp-small~0001/tree").mkdir(parents=True)
    (tmp_path / ".tmp-small-2~0001").mkdir()

    with artifact.locked(tmp_path, "small"):
        left = [path.name for path in tmp_path.glob(".tmp-*")]

    assert left == [".tmp-small-2~0001"]


def test_a_second_builder_waits(tmp_path: Path) -> None:
    """While the lock of an artifact is held, nobody else gets it; afterwards they do."""
    with artifact.locked(tmp_path, "a"), (tmp_path / ".a.lock").open() as second, pytest.raises(BlockingIOError):
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with (tmp_path / ".a.lock").open() as third:
        fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_link_is_switched(tmp_path: Path) -> None:
    """Pointing again changes where the link leads, and leaves no temporary."""
    for target in ("one", "two"):
        (tmp_path / target).mkdir()
        artifact.point(tmp_path / "current", target)

    assert (tmp_path / "current").readlink() == Path("two")
    assert not list(tmp_path.glob(".tmp-*"))


def test_removing_a_link_keeps_what_it_leads_to(tmp_path: Path) -> None:
    """Only the link goes; a path that is not there is no error."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")

    artifact.remove(tmp_path / "link")
    artifact.remove(tmp_path / "link")

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_digest_depends_on_the_content_alone() -> None:
    """The order of keys does not matter, any value does."""
    assert artifact.digest_of({"a": 1, "b": [2]}) == artifact.digest_of({"b": [2], "a": 1})
    assert artifact.digest_of({"a": 1}) != artifact.digest_of({"a": 2})
