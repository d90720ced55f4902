"""Artifacts are whole or not there, and one builder at a time works on one."""

from __future__ import annotations

import fcntl
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.wait import eventually

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


def test_what_is_pinned_is_discarded_by_force_only(tmp_path: Path) -> None:
    """By whomever it is pinned, and however often."""
    made = tmp_path / "made"
    made.mkdir()
    for owner in ("one", "other", "one"):
        artifact.pin(made, owner)
    artifact.unpin(made, "other")
    artifact.unpin(made, "other")

    assert artifact.pinned(made) == ["one"]
    assert not artifact.discard(made, "a")
    assert made.is_dir()
    assert artifact.discard(made, "a", force=True)
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_pinned_is_discarded(tmp_path: Path) -> None:
    """Also what somebody had pinned once; again is no error."""
    made = tmp_path / "made"
    made.mkdir()
    artifact.pin(made, "one")
    artifact.unpin(made, "one")

    assert artifact.discard(made, "a")
    assert artifact.discard(made, "a")
    assert list(tmp_path.iterdir()) == []


def test_what_is_gone_cannot_be_pinned(tmp_path: Path) -> None:
    """Who pins must know that it is there; who unpins need not."""
    gone = tmp_path / "gone"

    with pytest.raises(FileNotFoundError):
        artifact.pin(gone, "one")
    artifact.unpin(gone, "one")

    assert artifact.pinned(gone) == []


def test_a_pin_is_on_what_is_there_when_it_is_made(tmp_path: Path) -> None:
    """Who waited while it was discarded, and another took its place, is told."""
    made = tmp_path / "made"
    made.mkdir()
    holder = os.open(made, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as threads:
        pinning = threads.submit(artifact.pin, made, "one")
        waits = re.compile(rf"-> FLOCK .*:{made.stat().st_ino} ")
        eventually(lambda: waits.search(Path("/proc/locks").read_text()))
        made.rename(tmp_path / "doomed")
        made.mkdir()
        os.close(holder)
        with pytest.raises(FileNotFoundError):
            pinning.result()

    assert artifact.pinned(made) == []


def test_a_discard_that_was_killed_is_finished_by_the_next_holder_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of an artifact must not be found under its name."""
    made = tmp_path / "made-0123"
    made.mkdir()

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(artifact, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            artifact.discard(made, "made")

    assert not made.exists()
    with artifact.locked(tmp_path, "made"):
        assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]
