"""What the catalog shows of the builds on disk, and what it removes."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from terpd.daemon.template_command import create_app
from terpd.model.errors import StateConflict
from terpd.node.template import artifact
from terpd.node.template.catalog import Catalog, Image, record_of
from terpd.node.template.kernel import Kernel


@pytest.fixture
def home(tmp_path: Path) -> Path:
    kernel = tmp_path / "kernel/k1"
    kernel.mkdir(parents=True)
    (kernel / "vmlinux").touch()
    artifact.write_json(kernel / "kernel.json", {"format": 1, "version": "6.12.1-cloud"})
    return tmp_path


def add_build(home: Path, template: str, digest: str) -> Image:
    directory = home / "templates" / template / digest
    directory.mkdir(parents=True)
    (directory / "root.ext4").touch()
    image = Image(
        template=template,
        description="for tests",
        digest=digest,
        inputs="i1",
        root=directory / "root.ext4",
        kernel=Kernel("k1", "6.12.1-cloud", home / "kernel/k1"),
        warm=("true",),
        env={"LANG": "C.UTF-8"},
        package_hosts=("mirror.test",),
        size_bytes=1,
        disk_bytes=2,
        built_at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )
    artifact.write_json(directory / "image.json", record_of(image))
    artifact.point(home / "templates" / template / "current", digest)
    return image


def test_a_build_is_read_back_as_recorded(home: Path) -> None:
    """What was written to image.json is what the catalog gives."""
    image = add_build(home, "mine", "d1")

    assert Catalog(home).find("mine") == image
    assert Catalog(home).list() == [image]


def test_the_current_build_is_the_last_one_pointed_to(home: Path) -> None:
    """A newer build takes over, and the older stays for what still runs from it."""
    add_build(home, "mine", "d1")
    newer = add_build(home, "mine", "d2")

    assert Catalog(home).find("mine") == newer
    assert (home / "templates/mine/d1/root.ext4").exists()


@pytest.mark.parametrize("missing", ["image.json", "root.ext4", "../../../kernel/k1/vmlinux"])
def test_a_build_that_is_not_whole_is_not_there(home: Path, missing: str) -> None:
    """Without its record, its image or its kernel a template counts as not built."""
    image = add_build(home, "mine", "d1")
    (image.root.parent / missing).unlink()

    assert Catalog(home).find("mine") is None
    assert Catalog(home).list() == []


def test_pruning_keeps_what_is_current_or_in_use(home: Path) -> None:
    """Only builds that nobody names go."""
    for digest in ("d1", "d2", "d3"):
        add_build(home, "mine", digest)

    assert Catalog(home).prune("mine", {"d1"}) == ["d2"]
    assert sorted(path.name for path in (home / "templates/mine").glob("d*")) == ["d1", "d3"]


def test_removing_takes_all_builds_of_that_template(home: Path) -> None:
    """Other templates stay, and removing again is no error."""
    add_build(home, "mine", "d1")
    other = add_build(home, "other", "d1")

    Catalog(home).remove("mine")
    Catalog(home).remove("mine")

    assert Catalog(home).list() == [other]


def test_ls_as_json_is_what_the_records_say(home: Path) -> None:
    """Programs get the records of all templates as one array."""
    image = add_build(home, "mine", "d1")

    result = CliRunner().invoke(create_app(_no_snapshot, _no_drop), ["ls", "--json", "--home", str(home)])

    assert result.exit_code == 0
    assert json.loads(result.stdout) == [record_of(image)]


def test_rm_keeps_a_template_whose_snapshots_are_needed(home: Path) -> None:
    """When its snapshots cannot go, neither does the image, and the reason is told."""
    add_build(home, "mine", "d1")

    def refuse(home: Path, template: str, *, force: bool) -> None:
        raise StateConflict(f"A sandbox runs from {template}")

    result = CliRunner().invoke(create_app(_no_snapshot, refuse), ["rm", "mine", "--home", str(home)])

    assert result.exit_code == 1
    assert "A sandbox runs from mine" in result.stderr
    assert Catalog(home).find("mine") is not None


def test_rm_of_what_a_server_needs_must_be_forced(home: Path) -> None:
    """A template whose saved states would be lost stays whole, and the reason and the way out are told."""
    image = add_build(home, "mine", "d1")
    artifact.pin(image.root.parent, "0a1b2c3d")
    argv = ["rm", "mine", "--home", str(home)]

    refused = CliRunner().invoke(create_app(_no_snapshot, _no_drop), argv)
    kept = Catalog(home).find("mine")
    forced = CliRunner().invoke(create_app(_no_snapshot, _no_drop), [*argv, "--force"])

    assert refused.exit_code == 1
    assert "0a1b2c3d" in refused.stderr
    assert "--force" in refused.stderr
    assert kept == image
    assert forced.exit_code == 0
    assert [path.name for path in (home / "templates/mine").iterdir()] == [".image.lock"]


def test_a_pinned_build_outlives_newer_ones(home: Path) -> None:
    """Until nobody needs it any more; it is found by its digest meanwhile."""
    older = add_build(home, "mine", "d1")
    add_build(home, "mine", "d2")
    artifact.pin(older.root.parent, "0a1b2c3d")

    assert Catalog(home).prune("mine", ()) == []
    assert Catalog(home).build("mine", "d1") == older
    artifact.unpin(older.root.parent, "0a1b2c3d")
    assert Catalog(home).prune("mine", ()) == ["d1"]
    assert Catalog(home).build("mine", "d1") is None


def test_what_cannot_be_built_says_why(home: Path) -> None:
    """A recipe from an OCI image is refused with what it would need."""
    result = CliRunner().invoke(create_app(_no_snapshot, _no_drop), ["build", "ubuntu-24.04", "--home", str(home)])

    assert result.exit_code == 1
    assert "OCI registry" in result.stderr


def _no_snapshot(home: Path, image: Image, size: str, progress: object) -> None:
    raise AssertionError(size)


def _no_drop(home: Path, template: str, *, force: bool) -> None:
    """There are none."""
